"""What a model wrote, and whether it solves its problem."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rlkv.data.buckets import Sample
from rlkv.data.source import Problem
from rlkv.grading import Verdict, grade_batch

FIRST = 64
"""First problems of which some should be solved: a wrong setting fails all of them, for hours, silently."""

WARNING = (
    "warning: none of the first {first} problems was solved, {count} of them with: {reason}; look at the "
    "server's reasoning parser, at --no-thinking for a model that writes no </think>, and at the last MAX of "
    "--buckets, the most tokens of a response"
)


@dataclass(frozen=True)
class Response:
    """What a model wrote.

    Attributes:
        text: after the prompt, a closing ``</think>`` included.
        num_tokens: the end token included.
        finish_reason: ``stop`` or, at the token limit, ``length``.
    """

    text: str
    num_tokens: int
    finish_reason: str


class ResponseGrader:
    """Turns responses into samples; warns on stderr if none of the first problems that come back is solved.

    Args:
        thinking: the answer stands after ``</think>`` (``rlkv.grading.grade``).
    """

    def __init__(self, thinking: bool) -> None:
        self.thinking = thinking
        self._first: list[str | None] = []

    def samples(self, problems: Sequence[Problem], responses: Sequence[Response]) -> list[Sample | None]:
        """A sample for each response that ended by itself with the right answer, None for the others."""
        verdicts = grade_batch(
            [response.text for response in responses],
            [problem.answer for problem in problems],
            kinds=[problem.grader for problem in problems],
            thinking=self.thinking,
        )
        failures = list(map(_failure, responses, verdicts))
        self._watch(failures)
        return [
            Sample(problem.prompt, problem.answer, response.num_tokens) if failure is None else None
            for problem, response, failure in zip(problems, responses, failures, strict=True)
        ]

    def _watch(self, failures: list[str | None]) -> None:
        """Print the warning once the first problems are back, if it is due."""
        missing = FIRST - len(self._first)
        self._first += failures[:missing]
        if 0 < missing <= len(failures) and None not in self._first:
            [(reason, count)] = Counter(self._first).most_common(1)
            print(WARNING.format(first=FIRST, count=count, reason=reason), file=sys.stderr)


def _failure(response: Response, verdict: Verdict) -> str | None:
    """Why a response is no solution, None if it is one."""
    if response.finish_reason != "stop":
        return f"finish reason {response.finish_reason}"
    return None if verdict.correct else verdict.reason
