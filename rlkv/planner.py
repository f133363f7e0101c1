"""Arithmetic of the hybrid cache: bytes, how memory is split between the two pools, and what that buys.

Plain integers from a model's config; imports neither torch nor an engine. The server sizes its pools with the
same functions, so that a plan and a server agree to the byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlkv.errors import ConfigError
from rlkv.window import Window

EVICTION_INTERVAL = 16
"""Decode steps between two looks at what has left the windows, unless SGLANG_SWA_EVICTION_INTERVAL says."""


@dataclass(frozen=True)
class CacheShape:
    """Heads of both kinds in each layer, and the bytes of one token in one of them.

    Attributes:
        full_heads: full heads in each layer.
        streaming_heads: streaming heads in each layer.
        head_dim: channels of one head.
        element_bytes: bytes of one number in the cache.
    """

    full_heads: tuple[int, ...]
    streaming_heads: tuple[int, ...]
    head_dim: int
    element_bytes: int

    @classmethod
    def of(cls, streaming: Sequence[Sequence[bool]], head_dim: int, element_bytes: int) -> CacheShape:
        """From a mask ``[num_layers][num_kv_heads]``, True where the head streams."""
        counts = tuple(sum(map(bool, row)) for row in streaming)
        full = tuple(len(row) - count for row, count in zip(streaming, counts, strict=True))
        return cls(full, counts, head_dim, element_bytes)

    @property
    def head_token_bytes(self) -> int:
        """Key and value of one token in one head."""
        return 2 * self.head_dim * self.element_bytes

    @property
    def full_token_bytes(self) -> int:
        """One token in all full heads of the model."""
        return sum(self.full_heads) * self.head_token_bytes

    @property
    def window_token_bytes(self) -> int:
        """One token in all streaming heads of the model."""
        return sum(self.streaming_heads) * self.head_token_bytes

    @property
    def dense_token_bytes(self) -> int:
        """One token in all heads: what a stock server stores for it."""
        return self.full_token_bytes + self.window_token_bytes


@dataclass(frozen=True)
class Demand:
    """What the requests of a server ask of the window pool.

    Attributes:
        window: of the streaming heads.
        request_tokens: tokens that a running request is expected to hold.
        page_size: slots that are given and freed together.
        eviction_interval: decode steps between two looks at what has left the window.
        prefill_tokens: most tokens whose prefill is in flight at once; all of them hold window slots until
            their prefill is done.
    """

    window: Window
    request_tokens: int
    page_size: int
    eviction_interval: int
    prefill_tokens: int

    @property
    def slots_per_request(self) -> int:
        """Most window slots that a decoding request holds, never more than it has tokens.

        Sinks and window, and tokens that have left it: either those written since the last eviction, or,
        until the answer is a window long, the window at the end of the prompt, which the prefix cache holds.
        """
        return self._slots(max(self.eviction_interval, self.window.recent_size))

    @property
    def settled_slots(self) -> int:
        """The same for a request of which the prefix cache holds no window any more."""
        return self._slots(self.eviction_interval)

    def at_most(self, slots: int, tokens: int) -> int:
        """``slots``, or fewer if a request has no more than ``tokens`` tokens; whole pages."""
        return min(slots, _pages_up(tokens + self.page_size, self.page_size))

    def _slots(self, left: int) -> int:
        """Sinks, window and ``left`` tokens that have left it, in whole pages."""
        most = _pages_up(self.window.size + left + self.page_size, self.page_size)
        return self.at_most(most, self.request_tokens)


def prefill_in_flight(chunk: int, context_length: int) -> int:
    """Most prompt tokens whose prefill is in flight at once.

    Two chunks may be: the overlap scheduler prepares one while the other runs. Without chunks, which SGLang
    says by -1, a whole prompt is.
    """
    return 2 * min(chunk, context_length) if chunk > 0 else context_length


@dataclass(frozen=True)
class PoolSizes:
    """Tokens that each pool holds, whole pages; each pool has one page more, which is nobody's."""

    full_tokens: int
    window_tokens: int

    def nbytes(self, shape: CacheShape, page_size: int) -> int:
        """Bytes of all key and value buffers."""
        full = (self.full_tokens + page_size) * shape.full_token_bytes
        return full + (self.window_tokens + page_size) * shape.window_token_bytes


def window_tokens(full_tokens: int, demand: Demand, *shapes: CacheShape) -> int:
    """Slots of the window pool that go with a full pool of ``full_tokens`` tokens, the same on all ranks.

    Enough for as many requests as fill the full pool, and for the prefill in flight; never more than the full
    pool has, because no token has two slots. A cache without streaming heads on any rank takes no bytes, and
    as many slots.
    """
    if not any(shape.window_token_bytes for shape in shapes):
        return full_tokens
    requests = -(-full_tokens // demand.request_tokens)
    needed = requests * demand.slots_per_request + demand.prefill_tokens
    return min(full_tokens, _pages_up(needed, demand.page_size))


def split_memory(budget_bytes: int, demand: Demand, *shapes: CacheShape) -> PoolSizes:
    """The largest pair of pools that fits into a budget on every rank, each of which has a shape.

    Ranks with different heads hold the same number of tokens, because all hold parts of the same ones.

    Raises:
        ConfigError: not one page fits.
    """
    page = demand.page_size

    def sizes(pages: int) -> PoolSizes:
        return PoolSizes(pages * page, window_tokens(pages * page, demand, *shapes))

    def nbytes(pages: int) -> int:
        return max(sizes(pages).nbytes(shape, page) for shape in shapes)

    def fits(pages: int) -> bool:
        return nbytes(pages) <= budget_bytes

    # Bytes grow with the pages, so the last number that fits is found by halving.
    low, high = 0, 1
    while fits(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    if low == 0:
        raise ConfigError(
            f"KV memory is {budget_bytes} bytes, expected at least {nbytes(1)}, one page of tokens"
        )
    return sizes(low)


def dense_tokens(budget_bytes: int, shape: CacheShape, page_size: int) -> int:
    """Tokens that a stock cache holds in the same memory, whole pages."""
    pages = budget_bytes // (shape.dense_token_bytes * page_size) - 1
    return max(0, pages) * page_size


@dataclass(frozen=True)
class Load:
    """What is asked of a server.

    Attributes:
        prompt_tokens: tokens of a prompt.
        output_tokens: mean tokens of an answer.
        requests: requests at the same time; None for as many as fit.
    """

    prompt_tokens: int
    output_tokens: int
    requests: int | None = None

    @property
    def held_tokens(self) -> int:
        """Tokens that a running request holds on average: its prompt and half of its answer."""
        return max(1, self.prompt_tokens + self.output_tokens // 2)


@dataclass(frozen=True)
class Forecast:
    """Steady decoding in one kind of cache.

    Attributes:
        tokens: tokens that the cache holds.
        running: requests that decode together.
        kv_bytes: bytes of keys and values that one step reads.
        weight_bytes: bytes of weights that one step reads.
        bandwidth: bytes a second that the device reads.
    """

    tokens: int
    running: float
    kv_bytes: float
    weight_bytes: int
    bandwidth: float

    @property
    def step_seconds(self) -> float:
        """One decode step, if reading memory is all that it takes."""
        return (self.kv_bytes + self.weight_bytes) / self.bandwidth

    @property
    def tokens_per_second(self) -> float:
        """Of all running requests together."""
        return self.running / self.step_seconds


def forecast_dense(
    budget_bytes: int, load: Load, page_size: int, shape: CacheShape, weight_bytes: int, bandwidth: float
) -> Forecast:
    """A stock server, all heads full."""
    tokens = dense_tokens(budget_bytes, shape, page_size)
    running = _running(tokens / load.held_tokens, load)
    kv_bytes = running * load.held_tokens * shape.dense_token_bytes
    return Forecast(tokens, running, kv_bytes, weight_bytes, bandwidth)


def forecast_hybrid(
    budget_bytes: int, load: Load, demand: Demand, shape: CacheShape, weight_bytes: int, bandwidth: float
) -> Forecast:
    """A server with the hybrid cache in the same memory."""
    sizes = split_memory(budget_bytes, demand, shape)
    running = _running(sizes.full_tokens / load.held_tokens, load)
    seen = min(demand.window.size, load.held_tokens)
    per_request = load.held_tokens * shape.full_token_bytes + seen * shape.window_token_bytes
    return Forecast(sizes.full_tokens, running, running * per_request, weight_bytes, bandwidth)


def caveats(dense: Forecast, hybrid: Forecast, load: Load, window: Window) -> list[str]:
    """Why the savings will not show, each in a sentence; empty when they will."""
    found = []
    if dense.running < 1 or hybrid.running < 1:
        which = "either cache" if hybrid.running < 1 else "the full cache"
        found.append(f"no room: {which} holds less than one request, and figures of its speed mean nothing")
    if load.requests is not None and load.requests <= dense.running:
        found.append(
            f"little load: {load.requests} requests fit into the full cache, so saved memory serves nobody"
        )
    if load.held_tokens < 2 * window.size:
        found.append(
            f"short requests: {load.held_tokens} tokens on average, of which a streaming head keeps up to "
            f"{window.size}"
        )
    if dense.weight_bytes > dense.kv_bytes:
        share = dense.weight_bytes / (dense.weight_bytes + dense.kv_bytes)
        found.append(f"weights dominate: {share:.0%} of what a step of the full cache reads is weights")
    if hybrid.tokens_per_second < 1.1 * dense.tokens_per_second:
        found.append("little to gain: less than 10% more tokens a second")
    return found


def _running(capacity: float, load: Load) -> float:
    return capacity if load.requests is None else min(capacity, load.requests)


def _pages_up(tokens: int, page_size: int) -> int:
    return -(-tokens // page_size) * page_size
