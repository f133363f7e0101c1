"""GSM8K (arXiv 2110.14168): grade-school word problems with a whole number for an answer."""

from __future__ import annotations

from typing import ClassVar

from rlkv.errors import DataError

from .base import Example, digest_id, register
from .prompts import boxed
from .table import Row, TableTask

ANSWER_MARK = "####"
"""Stands before the final answer of each solution."""


@register("gsm8k")
class GSM8K(TableTask):
    """1,319 test problems; 7,473 of the training set serve for validation."""

    splits: ClassVar = ("test", "validation")
    repo: ClassVar = "openai/gsm8k"
    commit: ClassVar = "740312add88f781978c0658806c59bc2815b9866"
    config: ClassVar = "main"
    columns: ClassVar = ("question", "answer")
    hub_splits: ClassVar = {"validation": "train"}

    def example(self, row: Row) -> Example:
        _, mark, answer = row["answer"].rpartition(ANSWER_MARK)
        if not mark:
            raise DataError(f"gsm8k: answer is {row['answer'][-40:]!r}, expected {ANSWER_MARK} and a number")
        return Example(digest_id(row["question"]), boxed(row["question"]), answer.strip())
