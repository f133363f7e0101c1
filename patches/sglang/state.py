"""What this process serves with: set once by ``install``, filled as the server starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pool import HybridHeadPool
    from .settings import Settings


@dataclass
class ServingState:
    """The hybrid cache of this process.

    Attributes:
        settings: what was asked for.
        pool: the pools, once they are made.
        allocator: SGLang's, of the slots of both pools, once the attention backend is made.
        budget_bytes: memory that the pools may take, None where ``--max-total-tokens`` sizes them.
        freed_tokens: tokens whose window slots were freed because they left the window.
    """

    settings: Settings
    pool: HybridHeadPool | None = None
    allocator: Any = None
    budget_bytes: int | None = None
    freed_tokens: int = 0


_state: ServingState | None = None


def activate(settings: Settings) -> None:
    """Start serving with a hybrid cache in this process."""
    global _state  # noqa: PLW0603 - SGLang calls the hooks and can hand them nothing
    _state = ServingState(settings)


def state() -> ServingState:
    """The state of this process; hooks are in place only after ``activate``."""
    if _state is None:
        raise RuntimeError("rlkv: a hook was called in a process that serves no hybrid cache")
    return _state
