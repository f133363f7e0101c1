"""The steps between two droppings, for methods that do not drop at every one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .budget import Budget


@dataclass(frozen=True)
class Pause:
    """Where a step lies between the last dropping and the next.

    A row waits for the next dropping if enough is kept at the last one beside the room for the tokens until
    then; else it drops at every step. Longer rows can wait earlier than shorter ones, and which rows wait
    does not change between two droppings: it depends on the length at the next one alone.

    Attributes:
        step: decoding steps since the prompt.
        interval: steps from one dropping to the next.
        least: tokens that the method needs at least.
    """

    step: int
    interval: int
    least: int

    @property
    def since(self) -> int:
        """Steps since the last dropping."""
        return self.step % self.interval

    @property
    def left(self) -> int:
        """Steps until the last one before the next dropping."""
        return self.interval - 1 - self.since

    @property
    def enough(self) -> int:
        """What a row must be allowed at its longest in order to wait; no more than half of that is room."""
        room = self.interval - 1
        return room + max(self.least, room)

    def all_wait(self, budget: Budget, shortest: int) -> bool:
        """Whether all rows wait, the length of the shortest being known."""
        return budget.most(shortest + self.left) >= self.enough

    def counts(self, budget: Budget, lengths: torch.Tensor) -> torch.Tensor:
        """int64 [B]: tokens that each row keeps at this step; rows that wait keep all they have.

        Args:
            budget: of the comparison.
            lengths: int64 [B], tokens of each row so far.
        """
        at_longest = budget.most_each(lengths + self.left)
        waits = at_longest >= self.enough
        return torch.where(waits, at_longest - self.left, budget.most_each(lengths))
