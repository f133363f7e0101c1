"""How wrong answers fail: the paper's three modes (arXiv 2510.08525), each wrong answer in one of them."""

from __future__ import annotations

from .records import Sample

REPETITIVE, OVERLONG, INCORRECT = "repetitive", "overlong", "incorrect"
MODES = (REPETITIVE, OVERLONG, INCORRECT)


def failure(sample: Sample) -> str | None:
    """The mode of a wrong answer, None of a right one.

    Repetitive goes before overlong, because what repeats itself mostly does so up to the token limit; what
    ends in time and does not repeat itself is incorrect.
    """
    if sample.correct:
        return None
    if sample.repetitive:
        return REPETITIVE
    return OVERLONG if sample.finish_reason == "length" else INCORRECT
