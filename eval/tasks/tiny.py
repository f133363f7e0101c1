"""The tiny reasoner's own task: find the definitions that matter, then evaluate them."""

from __future__ import annotations

from itertools import islice
from typing import ClassVar

from rlkv import __version__
from rlkv.tiny.problems import DEFAULT_LEVEL, LEVELS, Problem, generate

from ..metrics import Repetition
from .base import Example, Task, digest_id, register

MAX_NEW_TOKENS = {"easy": 160, "medium": 352, "hard": 560, "expert": 960}
"""About 1.6 times the longest right solution of each level (97, 223, 349 and 601 tokens)."""


@register("tiny")
class TinyTask(Task):
    """Generated problems; every seed gives other ones, and no two splits share one."""

    levels: ClassVar = tuple(LEVELS)
    default_level: ClassVar = DEFAULT_LEVEL
    # The paper's definition scaled to answers of 160 to 960 tokens: right solutions have 18 or more distinct
    # tokens in any 100 in a row (28 at their end), a loop over one or two of their lines at most 15.
    repetition: ClassVar = Repetition(window=100, distinct=16)

    @property
    def revision(self) -> str:
        return f"rlkv {__version__}"

    def examples(self, level: str, split: str, seed: int, count: int) -> list[Example]:
        return [_example(problem) for problem in islice(generate(level, split, seed), count)]

    def default_problems(self, level: str) -> int:
        return 500

    def max_new_tokens(self, level: str) -> int:
        return MAX_NEW_TOKENS[level]


def _example(problem: Problem) -> Example:
    return Example(digest_id(problem.prompt), problem.prompt, problem.answer)
