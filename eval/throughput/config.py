"""What a throughput run measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rlkv.errors import ConfigError
from rlkv.heads.rank import num_streaming

from .lengths import PROMPT_TOKENS, REQUESTS, held_tokens, replay_lengths

SHAPES = Path(__file__).with_name("shapes")
"""Configs of real models; their weights are made up."""

MEMORY, CONCURRENCY, PREFIX = "memory", "concurrency", "prefix"
CASES = (MEMORY, CONCURRENCY, PREFIX)
"""Equal memory: the MATH-500 replay, of which as many requests run as fit. Equal concurrency: so many
requests of one length, all of which fit into either cache. Prefix: requests that share a long prompt, which
the server has already."""

PREFIX_OUTPUT_TOKENS = 64
"""New tokens behind a shared prefix: the first one is what that case is about."""

PREFIX_BURSTS = 5
"""A burst takes a second, and what happens once, such as loading a kernel, takes a tenth of that."""

FULL = "full"
"""The arm of the stock server; the others go by their sparsity."""


@dataclass(frozen=True)
class Workload:
    """Requests that are sent at once.

    Attributes:
        prompt_tokens: of every prompt, the shared ones included.
        lengths: new tokens of each request.
        shared_tokens: with which all prompts begin, and which the server has before they come.
        bursts: how often they are sent, with other tokens each time, to take the median burst.
    """

    prompt_tokens: int
    lengths: list[int]
    shared_tokens: int = 0
    bursts: int = 1

    @property
    def held_tokens(self) -> int:
        """Tokens that a running request holds on average."""
        return held_tokens(self.prompt_tokens, self.lengths)


@dataclass(frozen=True)
class ThroughputConfig:
    """Settings of a run; ``rlkv eval throughput --help`` says what each is."""

    out: Path
    model: str
    dummy_weights: bool
    heads: str
    sparsities: tuple[float, ...] = (0.5,)
    cases: tuple[str, ...] = (MEMORY, CONCURRENCY)
    requests: int = REQUESTS
    length_scale: float = 1.0
    kv_tokens: int = 150_000
    concurrency: int = 256
    prompt_tokens: int = 2048
    output_tokens: int = 512
    sharing: int = 64
    shared_tokens: int = 8192
    own_tokens: int = 64
    chunked_prefill_size: int = 8192
    bandwidth: float = 4300.0
    seed: int = 0
    server_flags: tuple[str, ...] = ()
    running: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for case in self.cases:
            if case not in CASES:
                raise ConfigError(f"--cases: found {case!r}, expected some of {', '.join(CASES)}")
        for sparsity in self.sparsities:
            num_streaming(sparsity, 1)
        for name in (
            "requests",
            "length_scale",
            "concurrency",
            "prompt_tokens",
            "output_tokens",
            "sharing",
            "shared_tokens",
            "own_tokens",
            "bandwidth",
        ):
            if getattr(self, name) <= 0:
                flag = "--" + name.replace("_", "-")
                raise ConfigError(f"{flag}: found {getattr(self, name):g}, expected more than 0")
        if self.kv_tokens < 0:
            raise ConfigError(f"--kv-tokens: found {self.kv_tokens}, expected 0 (all memory) or more")
        unknown = set(self.running) - set(self.arms)
        if unknown or (self.running and len(self.running) != len(self.arms)):
            raise ConfigError(
                f"--running: found {', '.join(self.running)}, expected one server each for "
                f"{', '.join(self.arms)}"
            )

    @property
    def arms(self) -> tuple[str, ...]:
        """The servers that are compared, the stock one first."""
        return (FULL, *(f"{sparsity:g}" for sparsity in self.sparsities))

    def workload(self, case: str) -> Workload:
        """The requests of a case."""
        if case == MEMORY:
            lengths = replay_lengths(self.requests, self.seed)
            return Workload(PROMPT_TOKENS, [max(1, round(self.length_scale * length)) for length in lengths])
        if case == PREFIX:
            lengths = [PREFIX_OUTPUT_TOKENS] * self.sharing
            return Workload(self.shared_tokens + self.own_tokens, lengths, self.shared_tokens, PREFIX_BURSTS)
        return Workload(self.prompt_tokens, [self.output_tokens] * self.concurrency)


def shape_folder(name: str) -> Path:
    """The folder of a shape, for ``--model``.

    Raises:
        ConfigError: there is no such shape.
    """
    known = sorted(path.parent.name for path in SHAPES.glob("*/config.json"))
    if name not in known:
        raise ConfigError(f"--shape: found {name!r}, expected one of {', '.join(known)}")
    return SHAPES / name
