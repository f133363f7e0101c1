"""Recipes: YAML files with the settings of a model, and where presets differ for it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from rlkv.errors import ConfigError
from rlkv.train.config import build
from rlkv.window import Window

from .settings import AREAL_PRESETS, ArealConfig

FOLDER = Path(__file__).with_name("recipes")
DEFAULT_PRESET = "paper"
ADDED = ("server_flags", "overrides")
"""Settings that are lists of anything else: more of them do not make those of a recipe void."""


def recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def from_recipe(name_or_path: str, preset: str | None, changes: dict[str, Any]) -> ArealConfig:
    """Settings of a recipe: its preset, what it sets for all presets, for this one, and the changes.

    Args:
        name_or_path: of a YAML file, or one of ``recipes()``; empty for none.
        preset: one of ``AREAL_PRESETS``; None is the recipe's own, or the paper's.
        changes: settings on top; what ``ADDED`` names comes after the recipe's own.

    Raises:
        ConfigError: no such recipe, or one with something that is no setting.
    """
    recipe = _read(name_or_path) if name_or_path else {}
    name = preset or recipe.get("preset", DEFAULT_PRESET)
    own = (recipe.get("settings") or {}) | ((recipe.get("presets") or {}).get(name) or {})
    values = {**AREAL_PRESETS.get(name, {}), **_typed(own)}
    added = {field: values.get(field, ()) + changes.get(field, ()) for field in ADDED}
    values |= changes | {field: items for field, items in added.items() if items}
    # AReaL forms its micro-batches by tokens, so that of ``rlkv train`` is a whole step.
    prompts, group = (
        values.get(field, getattr(ArealConfig, field)) for field in ("prompts_per_step", "group_size")
    )
    return build(ArealConfig, AREAL_PRESETS, name, values | {"micro_batch_size": prompts * group})


def _read(name_or_path: str) -> dict[str, Any]:
    shipped = FOLDER / f"{name_or_path}.yaml"
    path = shipped if shipped.exists() else Path(name_or_path)
    if not path.is_file():
        raise ConfigError(
            f"{name_or_path}: no such recipe, expected a YAML file or one of {', '.join(recipes())}"
        )
    try:
        found = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or found.keys() - {"preset", "settings", "presets"}:
        raise ConfigError(f"{path}: found {found!r:.80}, expected preset, settings and presets")
    unknown = (found.get("presets") or {}).keys() - AREAL_PRESETS.keys()
    if unknown:
        raise ConfigError(
            f"{path}: presets: found {sorted(unknown)[0]!r}, expected some of {', '.join(AREAL_PRESETS)}"
        )
    return found


def _typed(values: dict[str, Any]) -> dict[str, Any]:
    """YAML's values as the settings take them: windows are written as on the command line."""
    hints = get_type_hints(ArealConfig)
    known = {field.name: hints[field.name] for field in fields(ArealConfig)}
    return {name: _value(name, value, known.get(name)) for name, value in values.items()}


def _value(name: str, value: Any, kind: Any) -> Any:
    if kind is Window:
        return Window.parse(value)
    if kind == tuple[str, ...]:
        return tuple(value)
    if kind is float and isinstance(value, int):
        return float(value)
    if isinstance(kind, type) and issubclass(kind, str) and isinstance(value, str):
        try:
            return kind(value)
        except ValueError as error:
            raise ConfigError(f"recipe: {name}: {error}") from error
    if isinstance(kind, type) and not isinstance(value, kind):
        raise ConfigError(f"recipe: {name} is {value!r}, expected {kind.__name__}")
    return value
