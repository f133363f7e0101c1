"""The axis of the accuracy chart: sparsity, or the KV bytes held where methods keep to budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .config import FULL
from .published import Published
from .results import Result


@dataclass(frozen=True)
class Axis:
    """Where results stand from left to right, what saves least on the left.

    Attributes:
        of_bytes: whether places are shares of full's KV bytes, as measured, in place of sparsities.
    """

    of_bytes: bool

    @property
    def name(self) -> str:
        """What a place is."""
        return "KV bytes held" if self.of_bytes else "sparsity"

    @property
    def note(self) -> str:
        """What that means."""
        if self.of_bytes:
            return "share of full's for the same tokens; marks: budgets"
        return "share of KV heads that stream"

    def place(self, result: Result) -> float | None:
        """Place of a result; None of full, a line across, and of what has no budget among budgets."""
        if result.method == FULL:
            return None
        if not self.of_bytes:
            return result.sparsity
        return None if result.budget is None else result.kv_share

    def place_published(self, sparsity: float) -> float:
        """Place of a published figure.

        Tables give no bytes: among budgets it stands at what full heads, or kept tokens, hold. The windows of
        streaming heads would come on top.
        """
        return round(1 - sparsity, 9) if self.of_bytes else sparsity

    def marks(self, results: Sequence[Result], published: Sequence[Published]) -> dict[float, str]:
        """Places to mark, from left to right, and what to write there: what methods were asked for."""
        asked = {result.level for result in results if self.place(result) is not None}
        asked |= {self.place_published(sparsity) for row in published for sparsity in row.accuracy}
        return {
            level: f"{level:.3g}" if not self.of_bytes else f"{100 * level:.3g}%"
            for level in sorted(asked, reverse=self.of_bytes)
        }


def axis_of(results: Sequence[Result]) -> Axis:
    """The axis of one task's results."""
    return Axis(any(result.budget is not None for result in results))
