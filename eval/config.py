"""Settings of an evaluation. The command line and the YAML file read their options from here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rlkv.errors import ConfigError
from rlkv.grading.sandbox import allow_unsandboxed
from rlkv.window import Window

from .parts import Part, parse_part

FULL, RLKV, RANDOM, ABLATION, ALL_STREAMING = "full", "rlkv", "random", "ablation", "all-streaming"
KVZIP_HEADS = "kvzip-heads"
DEFAULT_METHODS = (FULL, RLKV, RANDOM, ABLATION, ALL_STREAMING)
TOKEN_DROPPERS = ("h2o", "snapkv", "streaming-llm", "kvzip", "r-kv", "random-attention")
"""Methods that drop tokens, in process and at a budget only (``rlkv_eval.rivals``)."""
BUILT_IN_METHODS = (*DEFAULT_METHODS, KVZIP_HEADS, *TOKEN_DROPPERS)

GROWING, FIXED = "growing", "fixed"
BUDGET_SCHEDULES = (GROWING, FIXED)

DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")

MIN_PROBLEMS = 10
"""Below this a 95% interval spans half of all accuracies."""


def setting(default: Any, text: str, **how: Any) -> Any:
    """A field with its default, the line that explains it, and how it is written (``rlkv.cli.options``)."""
    return field(default=default, metadata={"help": text, **how})


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def shares(name: str) -> Callable[[str], tuple[float, ...]]:
    """Reads numbers separated by commas.

    Raises:
        ConfigError: something else; names the option.
    """

    def read(text: str) -> tuple[float, ...]:
        try:
            return tuple(float(number) for number in names(text))
        except ValueError:
            expected = "numbers in [0, 1] separated by commas"
            raise ConfigError(f"{name}: found {text!r}, expected {expected}") from None

    return read


def listed(default: tuple, text: str, metavar: str, parser: Callable[[str], tuple] = names) -> Any:
    """A field that is a list, written with commas on the command line."""
    return setting(default, text, parser=parser, metavar=metavar)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """One comparison: a model, several methods at several sparsities, on the same problems of several tasks.

    Attributes:
        out: run folder; what is already there under the same settings is used, not computed again.
        heads: heads files by method name; ``rlkv`` replaces the one shipped with the model.

    Raises:
        ConfigError: a value out of range or unknown.
    """

    out: Path
    heads: Mapping[str, str] = field(default_factory=dict)
    model: str = setting("tiny-reasoner", "Shipped model, folder, or name on the hub.")
    tasks: tuple[str, ...] = listed(
        ("tiny",), "Tasks, each with its default level or one named.", "TASK[:LEVEL],…"
    )
    data_dir: Path | None = setting(
        None, "Local data, a sub-folder a task; samples: the few problems shipped.", shown="the hub"
    )
    allow_unsandboxed_code: bool = setting(
        False, "Run a model's code unprotected where the system allows no sandbox."
    )
    split: str = setting("test", "Set of problems.")
    n: int | None = setting(None, "Problems of each task.", shown="the task's own number")
    samples: int = setting(1, "Answers to each problem; accuracy is then pass@1, their mean.")
    methods: tuple[str, ...] = listed(
        DEFAULT_METHODS, f"Some of {', '.join(BUILT_IN_METHODS)}, or names given by --heads.", "NAME,…"
    )
    sparsities: tuple[float, ...] = listed(
        (0.3, 0.4, 0.5, 0.6, 0.7, 0.8), "Fractions of KV heads that stream.", "NUMBER,…", shares("sparsities")
    )
    budgets: tuple[float, ...] = listed(
        (),
        "Shares of full's KV bytes, the same for every method, in place of sparsities.",
        "NUMBER,…",
        shares("budgets"),
    )
    budget_schedule: str = setting(
        GROWING,
        "growing: the budget is a share of the sequence as it grows. fixed: token droppers keep "
        "everything until the budget of a finished answer is used up.",
    )
    method_options: tuple[str, ...] = listed(
        (), "Hyper-parameters of token droppers, such as r-kv.window=16.", "METHOD.NAME=NUMBER,…"
    )
    window: Window | None = setting(
        None,
        "Window of streaming heads.",
        parser=Window.parse,
        metavar="S+W",
        shown="serving window of the heads file",
    )
    seed: int = setting(0, "Which problems are drawn, and the sampling.")
    random_seeds: int = setting(5, "Random draws of heads.")
    ablation_problems: int = setting(64, "Validation problems that rank heads by ablation.")
    max_new_tokens: int | None = setting(None, "Token limit of an answer.", shown="the task's")
    temperature: float = setting(0.0, "0 is greedy.")
    top_p: float = setting(1.0, "Nucleus of sampling.")
    thinking: bool = setting(True, "The model thinks: an answer counts only after its </think>.")
    dtype: str = setting("float32", f"One of {', '.join(DTYPES)}: weights, activations and cache.")
    device: str = setting("auto", f"One of {', '.join(DEVICES)}.")
    batch_size: int = setting(128, "Problems answered at a time.")
    endpoint: str | None = setting(
        None, "URL of a running SGLang server with the one cache that is compared.", shown="in process"
    )
    serve: bool = setting(False, "Start a server for each cache (rlkv serve), in place of this process.")
    server_flags: str = setting("", "More flags of those servers, as one text.")
    concurrency: int = setting(64, "Requests to a server in flight.")

    def __post_init__(self) -> None:
        if self.allow_unsandboxed_code:
            allow_unsandboxed()
        for part in self.parts:
            part.task.check(part.level, self.split)
        _check_unique("tasks", tuple(part.label for part in self.parts))
        self._check_methods()
        self._check_levels()
        self._check_droppers()
        self._check_sampling()
        self._check_server()
        _check_choice("budget_schedule", self.budget_schedule, BUDGET_SCHEDULES)
        _check_choice("dtype", self.dtype, DTYPES)
        _check_choice("device", self.device, DEVICES)
        for name in ("random_seeds", "ablation_problems", "batch_size", "samples", "concurrency"):
            _check_at_least(name, getattr(self, name), 1)
        _check_at_least("seed", self.seed, 0)
        if self.n is not None:
            _check_at_least("n", self.n, MIN_PROBLEMS, ": fewer say nothing about a method")
        if self.max_new_tokens is not None:
            _check_at_least("max_new_tokens", self.max_new_tokens, 1)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The tasks at their levels."""
        if not self.tasks:
            raise ConfigError("tasks: none given, expected TASK or TASK:LEVEL")
        return tuple(parse_part(text, self.data_dir) for text in self.tasks)

    def num_problems(self, part: Part) -> int:
        """Problems of a task, its own number put in."""
        return self.n or part.task.default_problems(part.level)

    def token_limit(self, part: Part) -> int:
        """The limit of new tokens, the task's put in."""
        return self.max_new_tokens or part.task.max_new_tokens(part.level)

    def _check_server(self) -> None:
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ConfigError(f"endpoint: found {self.endpoint!r}, expected http://HOST:PORT")
        if self.endpoint and self.serve:
            raise ConfigError("serve: given with an endpoint, expected one of them")
        if self.server_flags and not self.serve:
            raise ConfigError("server_flags: given without serve, expected both")

    def _check_sampling(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature is {self.temperature}, expected a number of at least 0")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}, expected a number in (0, 1]")
        if self.samples > 1 and self.temperature == 0:
            raise ConfigError(
                f"samples is {self.samples} at temperature 0, expected a temperature above 0: "
                "greedy answers are all alike"
            )

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

    def _check_levels(self) -> None:
        for sparsity in self.sparsities:
            if not 0 <= sparsity <= 1:
                raise ConfigError(f"sparsity is {sparsity}, expected a number in [0, 1]")
        for budget in self.budgets:
            if not 0 < budget <= 1:
                raise ConfigError(f"budget is {budget}, expected a number in (0, 1]")
        _check_unique("sparsities", self.sparsities)
        _check_unique("budgets", self.budgets)
        if self.budgets:
            if FULL not in self.methods:
                raise ConfigError(
                    "budgets: full is not among the methods, expected it: the lengths of its answers set how "
                    "many heads stream"
                )
        elif not self.sparsities and set(self.methods) - {FULL, ALL_STREAMING}:
            raise ConfigError("sparsities: none given, expected at least one number in [0, 1]")

    def _check_droppers(self) -> None:
        droppers = [name for name in self.methods if name in TOKEN_DROPPERS]
        if droppers and not self.budgets:
            raise ConfigError(f"method {droppers[0]}: drops tokens to a budget, expected --budgets")
        if droppers and (self.serve or self.endpoint):
            raise ConfigError(f"method {droppers[0]}: runs in process only, expected no server")


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
