"""The models that come with the package, a folder each, and how a model is named on a command line."""

from __future__ import annotations

from pathlib import Path

from rlkv.errors import ConfigError

MODELS_FOLDER = Path(__file__).parent

_PATH_STARTS = ("/", "./", "../", "~")


def shipped_models() -> dict[str, Path]:
    """Folders of the shipped models by name."""
    return {path.parent.name: path.parent for path in sorted(MODELS_FOLDER.glob("*/config.json"))}


def resolve_model(name_or_path: str) -> str:
    """What ``from_pretrained`` takes for a folder, the name of a shipped model, or a hub id.

    A folder that exists wins over a shipped name; whatever is neither, and cannot be a path, is passed on
    as a hub id.

    Raises:
        ConfigError: a path that is no folder.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return str(path)
    known = shipped_models()
    if name_or_path in known:
        return str(known[name_or_path])
    if looks_like_path(name_or_path) or path.exists():
        names = ", ".join(known) or "none"
        raise ConfigError(f"{name_or_path}: no such model folder, nor a model shipped with rlkv ({names})")
    return name_or_path


def unknown_name(name_or_path: str) -> str:
    """What to add where a model cannot be had: empty for a folder, whose files are the trouble."""
    if Path(name_or_path).expanduser().is_dir():
        return ""
    return f"; neither a folder nor a model shipped with rlkv ({', '.join(shipped_models())})"


def looks_like_path(name: str) -> bool:
    """Whether a name can only be a path: hub ids are ``name`` or ``owner/name``."""
    return not name or name.startswith(_PATH_STARTS) or name.endswith("/") or name.count("/") > 1
