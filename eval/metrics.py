"""Figures of a set of answers: pure functions of counts and tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054
"""Standard normal quantile at 0.975."""


@dataclass(frozen=True)
class Repetition:
    """An answer is repetitive if its last ``window`` tokens have fewer than ``distinct`` different ones.

    An answer shorter than ``window`` is never repetitive: few tokens are few different ones, too.
    """

    window: int
    distinct: int

    def holds(self, token_ids: Sequence[int]) -> bool:
        """Whether an answer of these tokens is repetitive."""
        return len(token_ids) >= self.window and len(set(token_ids[-self.window :])) < self.distinct


PAPER_REPETITION = Repetition(window=400, distinct=40)
"""The paper's failure mode (arXiv 2510.08525)."""


def wilson_interval(successes: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; unlike the normal one it holds near 0 and 1.

    Args:
        successes: how often it happened.
        total: how often it could have, at least 1.
        z: standard normal quantile of the level, 95% by default.

    Returns:
        Lower and upper bound, in [0, 1], the share itself between them.
    """
    share, weight = successes / total, z * z / total
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / total / 4)
    # Exact arithmetic would keep to both limits.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
