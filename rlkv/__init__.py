"""RLKV: a per-head hybrid KV cache for reasoning models, with gates found by reinforcement learning.

Public names load on first use, so that ``import rlkv`` and ``rlkv --help`` wait neither for torch nor
for transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlkv.attention import attach_gates
    from rlkv.cache import HybridCache
    from rlkv.heads import HeadsFile
    from rlkv.window import Window

    __version__: str

_HOMES = {
    "HeadsFile": "rlkv.heads",
    "HybridCache": "rlkv.cache",
    "Window": "rlkv.window",
    "attach_gates": "rlkv.attention",
}

__all__ = ["HeadsFile", "HybridCache", "Window", "__version__", "attach_gates"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'rlkv' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("rlkv")
    except PackageNotFoundError:
        return "0+source"  # run from a checkout that was never installed
