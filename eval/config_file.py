"""A comparison's settings in YAML: the options of ``rlkv eval run`` by their names, without the dashes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from rlkv.errors import ConfigError

from .config import EvalConfig

WRITTEN: dict[Any, Any] = {Path: str, Mapping: dict, float: (int, float)}
"""How YAML writes a value of each type, where not as itself."""


def read_config(path: Path) -> dict[str, Any]:
    """The settings of a YAML file, as ``EvalConfig`` takes them.

    A list may be a YAML list or the command line's text; ``heads`` maps method names to files.

    Raises:
        ConfigError: the file cannot be read, or an option is unknown or of another kind.
    """
    known = {field.name: field for field in fields(EvalConfig)}
    hints = get_type_hints(EvalConfig)
    settings = {}
    for key, value in _load(path).items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise ConfigError(f"{path}: found option {key!r}, expected some of {', '.join(known)}")
        settings[name] = _value(f"{path}: {key}", value, known[name], hints[name])
    return settings


def _value(where: str, value: Any, field: Field, hint: Any) -> Any:
    """One value in the type of its field."""
    if parser := field.metadata.get("parser"):
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str | int | float) and not isinstance(text, bool) for text in texts):
            raise ConfigError(f"{where} is {value!r}, expected {field.metadata['metavar']} or a list of them")
        return parser(",".join(map(str, texts)))
    (kind, *_) = [k for k in get_args(hint) if k is not NoneType] if type(None) in get_args(hint) else [hint]
    kind = get_origin(kind) or kind
    written = WRITTEN.get(kind, kind)
    if not isinstance(value, written) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where} is {value!r}, expected {kind.__name__}")
    if kind is Mapping:
        return {str(name): str(file) for name, file in value.items()}
    return kind(value)


def _load(path: Path) -> dict[Any, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: found {type(content).__name__}, expected a mapping of options to values")
    return content
