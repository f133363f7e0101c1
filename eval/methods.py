"""Methods: which KV heads stream, and in which order a comparison goes through them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PretrainedConfig

from rlkv.errors import ConfigError, HeadsFileError
from rlkv.heads import HeadsFile, ModelShape, random_mask, resolve, streaming_mask
from rlkv.window import Window

from .config import (
    ABLATION,
    ALL_STREAMING,
    FULL,
    KVZIP_HEADS,
    RANDOM,
    RLKV,
    TOKEN_DROPPERS,
    EvalConfig,
)


@dataclass(frozen=True)
class Step:
    """One method at one sparsity: the unit of work, of a result and of a file.

    Attributes:
        method: name of the method.
        sparsity: fraction of KV heads that stream.
        seed: of the draw, None for every method but random.
        budget: share of full's KV bytes that the method keeps to; None where the sparsity was asked for. The
            sparsity then follows from it (``Comparison.at_budget``), and is 0 before and for token droppers.
    """

    method: str
    sparsity: float
    seed: int | None = None
    budget: float | None = None

    @property
    def name(self) -> str:
        """For files and people, such as ``random-2`` for the draw of seed 2."""
        return self.method if self.seed is None else f"{self.method}-{self.seed}"

    @property
    def level(self) -> str:
        """What the method was asked to save, for files and people."""
        return f"{self.sparsity:g}" if self.budget is None else f"budget-{self.budget:g}"

    def __str__(self) -> str:
        if self.method in (FULL, ALL_STREAMING):
            return self.name
        return f"{self.name} at {self.level.replace('-', ' ')}"


def plan(config: EvalConfig) -> list[Step]:
    """The steps of a comparison, what tells most for least time first.

    Full answers are the shortest and judge the rest; all-streaming ones run to the token limit; ablation has
    to rank the heads first; one random draw shows the level, the others its spread.
    """
    levels: list[tuple[float, float | None]] = [(sparsity, None) for sparsity in sorted(config.sparsities)]
    if config.budgets:
        levels = [(0.0, budget) for budget in sorted(config.budgets, reverse=True)]

    def steps_of(method: str, seed: int | None = None) -> list[Step]:
        return [Step(method, sparsity, seed, budget) for sparsity, budget in levels]

    names = dict.fromkeys([*config.methods, *config.heads])
    steps = [Step(FULL, 0.0)] if FULL in names else []
    from_files = [name for name in names if name in {RLKV, *config.heads}]
    draws = range(config.random_seeds) if RANDOM in names else range(0)
    dropping = [name for name in names if name in TOKEN_DROPPERS]
    ranked = [name for name in (KVZIP_HEADS, ABLATION) if name in names]
    steps += [step for name in from_files for step in steps_of(name)]
    steps += [step for seed in draws[:1] for step in steps_of(RANDOM, seed)]
    steps += [step for name in [*dropping, *ranked] for step in steps_of(name)]
    steps += [Step(ALL_STREAMING, 1.0)] if ALL_STREAMING in names else []
    return steps + [step for seed in draws[1:] for step in steps_of(RANDOM, seed)]


def streaming_heads(step: Step, shape: ModelShape, heads: Mapping[str, HeadsFile]) -> torch.Tensor | None:
    """Which heads stream: bool [num_layers, num_kv_heads], or None for the stock cache.

    Args:
        step: of a plan.
        shape: of the model.
        heads: heads files of the methods that have one.
    """
    if step.method == FULL:
        return None
    if step.method == ALL_STREAMING:
        return torch.ones(shape.num_layers, shape.num_kv_heads, dtype=torch.bool)
    if step.seed is not None:
        return random_mask(shape.num_layers, shape.num_kv_heads, step.sparsity, step.seed)
    return streaming_mask(heads[step.method].gates, step.sparsity)


def load_heads(
    config: EvalConfig, model_folder: Path, model_config: PretrainedConfig
) -> dict[str, HeadsFile]:
    """The heads files of a comparison by method, checked against the model.

    Raises:
        HeadsFileError: a file is missing, malformed or made for another model.
    """
    sources = dict(config.heads)
    if RLKV in config.methods and RLKV not in sources:
        sources[RLKV] = str(_own_heads(config.model, model_folder))
    heads = {}
    for name, source in sources.items():
        path = resolve(source)
        heads[name] = HeadsFile.read(path)
        heads[name].check_model(model_config, path)
    return heads


def _own_heads(model: str, model_folder: Path) -> Path:
    """The heads file that lies beside the model's weights."""
    path = model_folder / "heads.json"
    if not path.is_file():
        raise HeadsFileError(
            f"{model}: comes with no heads.json, expected --heads rlkv=FILE, or methods other than rlkv"
        )
    return path


def choose_window(config: EvalConfig, heads: Mapping[str, HeadsFile]) -> Window | None:
    """The window of all streaming heads: the given one, or that of the heads files; None if nothing streams.

    Raises:
        ConfigError: none is given, and the heads files recommend none or not the same.
    """
    if config.window is not None:
        return config.window
    if not heads and not set(config.methods) - {FULL, *TOKEN_DROPPERS}:
        return None
    recommended = {str(file.serving_window) for file in heads.values()}
    if len(recommended) != 1:
        found = "no heads file gives one"
        if recommended:
            found = f"heads files recommend {' and '.join(sorted(recommended))}"
        raise ConfigError(f"window: {found}, expected --window SINK+RECENT")
    return next(iter(heads.values())).serving_window
