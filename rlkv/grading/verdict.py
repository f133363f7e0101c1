"""What a grader says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """What a grader decided.

    Attributes:
        correct: the final answer equals the right one, or passes the tests.
        extracted: the final answer as the response wrote it, None if there is none.
        reason: why, in a few words for a log.
    """

    correct: bool
    extracted: str | None
    reason: str
