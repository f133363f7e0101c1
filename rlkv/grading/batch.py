"""Grades many responses, each with the grader of its kind of answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from rlkv.errors import DataError
from rlkv.grading.code import grade_code
from rlkv.grading.grader import grade
from rlkv.grading.letters import grade_letter
from rlkv.grading.verdict import Verdict

MATH, LETTER, CODE = "math", "letter", "code"

GRADERS: dict[str, Callable[..., Verdict]] = {MATH: grade, LETTER: grade_letter, CODE: grade_code}
"""By kind of answer: LaTeX or plain text, the letter of an option, Python asserts."""


def grade_batch(
    responses: Sequence[str],
    answers: Sequence[str],
    *,
    kinds: str | Sequence[str] = MATH,
    thinking: bool | Sequence[bool] = True,
) -> list[Verdict]:
    """Grade responses against the answers of the same positions.

    Args:
        responses: what the model wrote.
        answers: right answers, or tests.
        kinds: of the answers, keys of ``GRADERS``; one for all or one each.
        thinking: False for models without thoughts (``rlkv.grading.grade``); one for all or one each.

    Raises:
        DataError: an unknown kind.
        RLKVError: a grader cannot run here.
    """
    each = [kinds] * len(answers) if isinstance(kinds, str) else kinds
    thoughts = [thinking] * len(answers) if isinstance(thinking, bool) else thinking
    for kind in each:
        if kind not in GRADERS:
            raise DataError(f"grader: found {kind!r}, expected one of {', '.join(GRADERS)}")
    rows = list(zip(responses, answers, each, thoughts, strict=True))

    def verdict(row: tuple[str, str, str, bool]) -> Verdict:
        response, answer, kind, thinks = row
        return GRADERS[kind](response, answer, thinking=thinks)

    if CODE not in each:  # math-verify has one process, and letters take no time
        return [verdict(row) for row in rows]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(verdict, rows))
