"""What makes two results the same: every setting that changes them, and nothing else.

A result's file is named after the hash of its identity and begins with it, so a changed window, model or
option can never meet an old result.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from rlkv.errors import ConfigError
from rlkv.generation import CacheRecipe, HeadSplit

from .config import EvalConfig
from .parts import Part

MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "pytorch_model*.bin",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "chat_template*",
)
"""Files that decide what a model answers. Not its heads files: their masks have a place of their own."""


def settings(config: EvalConfig, model_folder: Path, engine: dict[str, Any]) -> dict[str, Any]:
    """What all tasks and methods of a comparison share, as JSON values.

    Args:
        config: of the comparison.
        model_folder: where the model's files are.
        engine: from ``Answerer.settings``.
    """
    return {
        "model": model_digest(model_folder),
        "seed": config.seed,
        "samples": config.samples,
        "thinking": config.thinking,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "engine": engine,
    }


def task_settings(config: EvalConfig, part: Part) -> dict[str, Any]:
    """What all methods share on one task, as JSON values."""
    return {
        "task": part.name,
        "revision": part.task.revision,
        "level": part.level,
        "split": config.split,
        "num_problems": config.num_problems(part),
        "max_new_tokens": config.token_limit(part),
        "repetition": asdict(part.task.repetition),
    }


def identity(shared: dict[str, Any], task: dict[str, Any], recipe: CacheRecipe | None) -> dict[str, Any]:
    """The identity of one method at one sparsity on one task: the mask itself counts, not its name.

    Args:
        shared: from ``settings``.
        task: from ``task_settings``.
        recipe: of the cache, None for the stock one.
    """
    return {"settings": shared, "task": task, **_cache(recipe)}


def _cache(recipe: CacheRecipe | None) -> dict[str, Any]:
    if recipe is None:
        return {"cache": "full"}
    if isinstance(recipe, HeadSplit):
        return {"cache": "hybrid", "window": str(recipe.window), "heads": head_rows(recipe)}
    return {"cache": "dropping", **json_values(recipe)}


def json_values(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass as they will be read from a file: JSON has lists in place of tuples."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return values


def head_rows(split: HeadSplit) -> list[str]:
    """The mask, a line a layer: ``s`` for a head that streams, ``F`` for a full one."""
    return ["".join("s" if streams else "F" for streams in row) for row in split.streaming.tolist()]


def digest(value: Any) -> str:
    """SHA-256 of JSON values in their one canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def model_digest(folder: Path) -> str:
    """SHA-256 over names and contents of the files in ``MODEL_FILES``.

    Raises:
        ConfigError: the folder holds no model.
    """
    paths = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()})
    if not any(path.name == "config.json" for path in paths):
        raise ConfigError(f"{folder}: holds no config.json, expected the folder of a model")
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.name} {content}\n".encode())
    return total.hexdigest()
