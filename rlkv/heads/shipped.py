"""The heads files that come with the package, each beside its model under ``rlkv/models``."""

from __future__ import annotations

from pathlib import Path

from rlkv.errors import HeadsFileError

MODELS_FOLDER = Path(__file__).parent.parent / "models"


def shipped_heads() -> dict[str, Path]:
    """Heads files by name: the folder's name, and ``folder-x`` for a further ``heads-x.json`` in it."""
    paths = sorted(MODELS_FOLDER.glob("*/heads*.json"))
    return {path.parent.name + path.stem.removeprefix("heads"): path for path in paths}


def resolve(name_or_path: str | Path) -> Path:
    """The path of a heads file given by path or by the name of a shipped one; a path that exists wins.

    Raises:
        HeadsFileError: neither; the message lists the names.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    known = shipped_heads()
    if str(name_or_path) not in known:
        names = ", ".join(known) or "none"
        raise HeadsFileError(f"{name_or_path}: no such file, nor a heads file shipped with rlkv ({names})")
    return known[str(name_or_path)]
