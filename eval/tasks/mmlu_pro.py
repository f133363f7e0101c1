"""MMLU-Pro (arXiv 2406.01574): multiple choice of up to ten options, in the four subjects of the paper."""

from __future__ import annotations

from string import ascii_uppercase
from typing import ClassVar

from rlkv.grading import LETTER

from .base import Example, register
from .prompts import LETTER_INSTRUCTION
from .table import Row, TableTask

SUBJECTS = {
    "chemistry": "chemistry",
    "computer-science": "computer science",
    "law": "law",
    "physics": "physics",
}
"""The data set's categories by level."""


@register("mmlu_pro")
class MMLUPro(TableTask):
    """A level a subject, and all four together."""

    levels: ClassVar = ("all", *SUBJECTS)
    grader: ClassVar = LETTER
    splits: ClassVar = ("test", "validation")
    repo: ClassVar = "TIGER-Lab/MMLU-Pro"
    commit: ClassVar = "b189ec765aa7ed75c8acfea42df31fdae71f97be"
    columns: ClassVar = ("question_id", "question", "options", "answer", "category")

    def belongs(self, row: Row, level: str) -> bool:
        return row["category"] in (SUBJECTS.values() if level == "all" else [SUBJECTS[level]])

    def example(self, row: Row) -> Example:
        options = "\n".join(
            f"{letter}. {text}" for letter, text in zip(ascii_uppercase, row["options"], strict=False)
        )
        prompt = f"{row['question'].strip()}\n\n{options}\n\n{LETTER_INSTRUCTION}"
        return Example(str(row["question_id"]), prompt, row["answer"])
