"""Settings of an evaluation. The command line reads its defaults from here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlkv.errors import ConfigError
from rlkv.window import Window

from .tasks import get_task

FULL, RLKV, RANDOM, ABLATION, ALL_STREAMING = "full", "rlkv", "random", "ablation", "all-streaming"
BUILT_IN_METHODS = (FULL, RLKV, RANDOM, ABLATION, ALL_STREAMING)

DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")

MIN_PROBLEMS = 10
"""Below this a 95% interval spans half of all accuracies."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """One comparison: a model and a task, several methods at several sparsities.

    Attributes:
        out: run folder; what is already there under the same settings is used, not computed again.
        model: name of a shipped model, a folder, or a name on the hub.
        task: name in the task registry.
        level: part of the task; None is the task's default.
        split: set of problems.
        seed: which problems are drawn, and the sampling.
        num_problems: answered by each method at each sparsity.
        methods: of ``BUILT_IN_METHODS`` or named in ``heads``.
        sparsities: fractions of KV heads that stream, for every method but full and all-streaming.
        heads: heads files by method name; ``rlkv`` replaces the one shipped with the model.
        random_seeds: how many random draws of heads.
        ablation_problems: validation problems whose solutions rank the heads by ablation.
        window: window of streaming heads; None is the serving window of the heads files.
        max_new_tokens: token limit of an answer; None is the task's.
        temperature: 0 is greedy.
        top_p: nucleus of sampling, without effect on greedy answers.
        dtype: of weights, activations and cache.
        device: ``auto`` takes CUDA where there is a device.
        batch_size: problems answered at a time.

    Raises:
        ConfigError: a value out of range or unknown.
    """

    out: Path
    model: str = "tiny-reasoner"
    task: str = "tiny"
    level: str | None = None
    split: str = "test"
    seed: int = 0
    num_problems: int = 500
    methods: tuple[str, ...] = BUILT_IN_METHODS
    sparsities: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    heads: Mapping[str, str] = field(default_factory=dict)
    random_seeds: int = 5
    ablation_problems: int = 64
    window: Window | None = None
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    dtype: str = "float32"
    device: str = "auto"
    batch_size: int = 128

    def __post_init__(self) -> None:
        get_task(self.task).check(self.problem_level, self.split)
        self._check_methods()
        self._check_sparsities()
        _check_choice("dtype", self.dtype, DTYPES)
        _check_choice("device", self.device, DEVICES)
        _check_at_least("num_problems", self.num_problems, MIN_PROBLEMS, ": fewer say nothing about a method")
        for name, smallest in (("random_seeds", 1), ("ablation_problems", 1), ("batch_size", 1), ("seed", 0)):
            _check_at_least(name, getattr(self, name), smallest)
        if self.max_new_tokens is not None:
            _check_at_least("max_new_tokens", self.max_new_tokens, 1)
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature is {self.temperature}, expected a number of at least 0")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}, expected a number in (0, 1]")

    @property
    def problem_level(self) -> str:
        """The level, the task's default put in."""
        return self.level or get_task(self.task).default_level

    @property
    def token_limit(self) -> int:
        """The limit of new tokens, the task's put in."""
        return self.max_new_tokens or get_task(self.task).max_new_tokens(self.problem_level)

    def _check_methods(self) -> None:
        for name in self.heads:
            if name in BUILT_IN_METHODS and name != RLKV:
                raise ConfigError(f"heads: {name!r} is a built-in method, expected another name")
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ConfigError(f"heads: name is {name!r}, expected letters, digits, - and _")
        if not self.methods:
            raise ConfigError(f"methods: none given, expected some of {', '.join(BUILT_IN_METHODS)}")
        known = list(dict.fromkeys([*BUILT_IN_METHODS, *self.heads]))
        for name in self.methods:
            if name not in known:
                raise ConfigError(
                    f"method is {name!r}, expected one of {', '.join(known)} or a name given by --heads"
                )
        _check_unique("methods", self.methods)

    def _check_sparsities(self) -> None:
        for sparsity in self.sparsities:
            if not 0 <= sparsity <= 1:
                raise ConfigError(f"sparsity is {sparsity}, expected a number in [0, 1]")
        _check_unique("sparsities", self.sparsities)
        if not self.sparsities and set(self.methods) - {FULL, ALL_STREAMING}:
            raise ConfigError("sparsities: none given, expected at least one number in [0, 1]")


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(known)}")


def _check_at_least(name: str, value: int, smallest: int, why: str = "") -> None:
    if value < smallest:
        raise ConfigError(f"{name} is {value}, expected at least {smallest}{why}")


def _check_unique(name: str, values: tuple) -> None:
    twice = [str(value) for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ConfigError(f"{name}: {', '.join(twice)} given twice, expected once")
