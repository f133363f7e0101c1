"""What ``--rlkv-*`` asked for, as it travels from the launching process to the schedulers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlkv.planner import CacheShape
from rlkv.window import Window

from .head_ranks import head_order, heads_of_rank

REQUEST_TOKENS = 2048
"""Tokens that a running request is expected to hold when the user does not say."""


@dataclass(frozen=True)
class Settings:
    """The hybrid cache that a server is to use; plain values, so that it survives pickling.

    Attributes:
        heads_file: where the gates came from, for people.
        model_id: model that the gates belong to, for people.
        sparsity: fraction of KV heads that stream.
        window: of the streaming heads.
        streaming: ``[num_layers][num_kv_heads]``, True where the head streams.
        request_tokens: tokens that a running request is expected to hold, which splits the memory.
        ranks: tensor-parallel ranks that share the KV heads of every layer.
        rank: the one of this process.
    """

    heads_file: str
    model_id: str
    sparsity: float
    window: Window
    streaming: tuple[tuple[bool, ...], ...]
    request_tokens: int
    ranks: int = 1
    rank: int = 0

    def of_rank(self, rank: int) -> Settings:
        """The same for another rank."""
        return replace(self, rank=rank)

    @property
    def order(self) -> tuple[tuple[int, ...], ...]:
        """The KV heads of every layer in the order of their ranks (``head_ranks``)."""
        return head_order(self.streaming, self.ranks)

    @property
    def local_streaming(self) -> tuple[tuple[bool, ...], ...]:
        """``[num_layers][heads of this rank]``, True where the head streams."""
        heads = heads_of_rank(self.order, self.rank, self.ranks)
        return tuple(
            tuple(row[head] for head in mine) for row, mine in zip(self.streaming, heads, strict=True)
        )

    def cache_shape(self, head_dim: int, element_bytes: int) -> CacheShape:
        """Heads of both kinds in each layer on this rank, and their bytes."""
        return CacheShape.of(self.local_streaming, head_dim, element_bytes)

    def cache_shapes(self, head_dim: int, element_bytes: int) -> list[CacheShape]:
        """``cache_shape`` of every rank."""
        return [self.of_rank(rank).cache_shape(head_dim, element_bytes) for rank in range(self.ranks)]

    def sink_slots(self, page_size: int) -> int:
        """Slots that the sinks of a sequence occupy: whole pages, because pages are freed whole."""
        return -(-self.window.sink_size // page_size) * page_size

    @property
    def tree_window(self) -> int:
        """Tokens before the next one that its streaming heads see as recent; at least 1 for SGLang's rules.

        A token sees W recent tokens, its own included, so W - 1 earlier ones must be there.
        """
        return max(1, self.window.recent_size - 1)
