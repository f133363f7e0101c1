"""AIME 2024: both papers of that year's invitational examination, 30 problems with answers from 0 to 999."""

from __future__ import annotations

from typing import ClassVar

from .base import Example, register
from .prompts import boxed
from .table import Row, TableTask

MAX_NEW_TOKENS = 16384
"""The paper's limit, twice that of the other tasks."""


@register("aime24")
class AIME24(TableTask):
    """One problem is 3.3 points of accuracy: take several samples, and mind the interval."""

    repo: ClassVar = "HuggingFaceH4/aime_2024"
    commit: ClassVar = "2fe88a2f1091d5048c0f36abc874fb997b3dd99a"
    columns: ClassVar = ("id", "problem", "answer")
    hub_splits: ClassVar = {"test": "train"}

    def example(self, row: Row) -> Example:
        return Example(str(row["id"]), boxed(row["problem"]), str(row["answer"]))

    def max_new_tokens(self, level: str) -> int:
        return MAX_NEW_TOKENS
