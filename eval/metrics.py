"""Figures of a set of answers: pure functions of counts and tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

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


@dataclass(frozen=True)
class Estimate:
    """An accuracy, its standard error, and its 95% interval."""

    accuracy: float
    standard_error: float
    low: float
    high: float


def pass_at_1(correct: Sequence[Sequence[bool]]) -> Estimate:
    """Mean over problems of each problem's share of right answers.

    The answers to one problem are no independent trials, so the interval is Wilson's at their effective
    number: that of independent ones with the same standard error, between one a problem and all of them. With
    one answer a problem it is the plain interval.

    Args:
        correct: by problem, of at least one answer each; at least one problem.
    """
    shares = [fmean(answers) for answers in correct]
    total, answers = len(shares), sum(map(len, correct))
    accuracy = fmean(shares)
    squares = math.fsum((share - accuracy) ** 2 for share in shares)
    variance = squares / total / max(total - 1, 1)
    if accuracy in (0, 1):
        trials: float = total  # no spread to tell how alike the answers to one problem are
    else:
        # The biased variance makes it exactly ``total`` where every problem has one answer.
        effective = accuracy * (1 - accuracy) * total**2 / squares if squares else math.inf
        trials = min(max(effective, total), answers)
    return Estimate(accuracy, math.sqrt(variance), *wilson_interval(accuracy * trials, trials))


def wilson_interval(successes: float, total: float, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; unlike the normal one it holds near 0 and 1.

    Args:
        successes: how often it happened.
        total: how often it could have, at least 1; an effective number may be a fraction.
        z: standard normal quantile of the level, 95% by default.

    Returns:
        Lower and upper bound, in [0, 1], the share itself between them.
    """
    share, weight = successes / total, z * z / total
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / total / 4)
    # Exact arithmetic would keep to both limits.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
