"""Whether two methods differ on the same problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

from .records import Sample


@dataclass(frozen=True)
class Paired:
    """One method against another on the problems that both answered.

    Attributes:
        problems: answered by both.
        gained: problems on which the one is right more often.
        lost: problems on which the other is.
        p_value: of as uneven a split or more, if both were equally good (exact, two-sided).
    """

    problems: int
    gained: int
    lost: int
    p_value: float


def paired(one: Sequence[Sample], other: Sequence[Sample], draws: int) -> Paired:
    """Compare two methods problem by problem.

    With one answer a problem this is McNemar's exact test, with several the sign test on the problems' shares
    of right answers, which is the same but for ties.

    Args:
        one: answers of the method that gains or loses.
        other: of the one it is compared with.
        draws: answers to each problem; problems that either has not answered in full are left out.
    """
    ours, theirs = _right(one, draws), _right(other, draws)
    both = ours.keys() & theirs.keys()
    gained = sum(ours[problem] > theirs[problem] for problem in both)
    lost = sum(ours[problem] < theirs[problem] for problem in both)
    return Paired(len(both), gained, lost, sign_test(gained, lost))


def sign_test(gained: int, lost: int) -> float:
    """Two-sided exact p-value of so many wins and losses of a fair coin; 1 where there are none."""
    flips, fewer = gained + lost, min(gained, lost)
    tail = sum(comb(flips, wins) for wins in range(fewer + 1))
    return min(1.0, 2 * tail / 2**flips)


def _right(samples: Sequence[Sample], draws: int) -> Mapping[int, int]:
    """Right answers by problem, of the problems answered in full."""
    answers: dict[int, list[bool]] = {}
    for sample in samples:
        answers.setdefault(sample.index // draws, []).append(sample.correct)
    return {problem: sum(right) for problem, right in answers.items() if len(right) == draws}
