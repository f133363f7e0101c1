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

from .config import ABLATION, ALL_STREAMING, FULL, RANDOM, RLKV, EvalConfig


@dataclass(frozen=True)
class Step:
    """One method at one sparsity: the unit of work, of a result and of a file.

    Attributes:
        method: name of the method.
        sparsity: fraction of KV heads that stream.
        seed: of the draw, None for every method but random.
    """

    method: str
    sparsity: float
    seed: int | None = None

    @property
    def name(self) -> str:
        """For files and people, such as ``random-2`` for the draw of seed 2."""
        return self.method if self.seed is None else f"{self.method}-{self.seed}"

    def __str__(self) -> str:
        return self.name if self.method in (FULL, ALL_STREAMING) else f"{self.name} at {self.sparsity:g}"


def plan(config: EvalConfig) -> list[Step]:
    """The steps of a comparison, what tells most for least time first.

    Full answers are the shortest and judge the rest; all-streaming ones run to the token limit; ablation has
    to rank the heads first; one random draw shows the level, the others its spread.
    """
    sparsities = sorted(config.sparsities)
    names = dict.fromkeys([*config.methods, *config.heads])
    steps = [Step(FULL, 0.0)] if FULL in names else []
    from_files = [name for name in names if name in {RLKV, *config.heads}]
    steps += [Step(name, sparsity) for name in from_files for sparsity in sparsities]
    draws = range(config.random_seeds) if RANDOM in names else range(0)
    steps += [Step(RANDOM, sparsity, seed) for seed in draws[:1] for sparsity in sparsities]
    steps += [Step(ABLATION, sparsity) for sparsity in sparsities if ABLATION in names]
    steps += [Step(ALL_STREAMING, 1.0)] if ALL_STREAMING in names else []
    return steps + [Step(RANDOM, sparsity, seed) for seed in draws[1:] for sparsity in sparsities]


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
    if not heads and set(config.methods) == {FULL}:
        return None
    recommended = {str(file.serving_window) for file in heads.values()}
    if len(recommended) != 1:
        found = "no heads file gives one"
        if recommended:
            found = f"heads files recommend {' and '.join(sorted(recommended))}"
        raise ConfigError(f"window: {found}, expected --window SINK+RECENT")
    return next(iter(heads.values())).serving_window
