"""What this process serves with: set once by ``install``, filled as the server starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pool import HybridHeadPool
    from .settings import Settings


@dataclass
class Mean:
    """The mean of what was added."""

    total: int = 0
    count: int = 0

    def add(self, value: int) -> None:
        """Count one more."""
        self.total += value
        self.count += 1

    @property
    def value(self) -> int:
        """Rounded; 0 before the first."""
        return round(self.total / self.count) if self.count else 0


@dataclass
class ServingState:
    """The hybrid cache of this process.

    Attributes:
        settings: what was asked for.
        scheduler: SGLang's, of this process; None where forward passes are run without one.
        pool: the pools, once they are made.
        allocator: SGLang's, of the slots of both pools, once the attention backend is made.
        budget_bytes: memory that SGLang has for the pools, None before it has looked; ``--max-total-tokens``
            may leave some of it unused.
        observed: tokens that running requests held whenever it was looked at what left their windows.
        freed_tokens: tokens whose window slots were freed: they left a request's window, or the prefix cache
            gave up theirs.
        decode_steps: steps of decoding so far.
    """

    settings: Settings
    scheduler: Any
    pool: HybridHeadPool | None = None
    allocator: Any = None
    budget_bytes: int | None = None
    observed: Mean = field(default_factory=Mean)
    freed_tokens: int = 0
    decode_steps: int = 0


_state: ServingState | None = None


def activate(settings: Settings, scheduler: Any) -> None:
    """Start serving with a hybrid cache in this process."""
    global _state  # noqa: PLW0603 - SGLang calls the hooks and can hand them nothing
    _state = ServingState(settings, scheduler)


def state() -> ServingState:
    """The state of this process; hooks are in place only after ``activate``."""
    if _state is None:
        raise RuntimeError("rlkv: a hook was called in a process that serves no hybrid cache")
    return _state
