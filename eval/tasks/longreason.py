"""LongReason (arXiv 2501.15089): multiple-choice reasoning over a context of a given length."""

from __future__ import annotations

from typing import ClassVar

from rlkv.grading import LETTER

from .base import Example, register
from .prompts import LETTER_INSTRUCTION
from .table import Row, TableTask


@register("longreason")
class LongReason(TableTask):
    """The same 794 questions at every level: as they were, expanded, and in contexts of 8k to 128k tokens."""

    levels: ClassVar = ("original", "expanded", "8k", "16k", "32k", "64k", "128k")
    default_level: ClassVar = "64k"
    grader: ClassVar = LETTER
    repo: ClassVar = "lz1bytedance/LongReason"
    commit: ClassVar = None
    columns: ClassVar = ("example_idx", "prompt", "answer")

    def hub_split(self, level: str, split: str) -> str:
        return level

    def example(self, row: Row) -> Example:
        prompt = f"{row['prompt'].strip()}\n\n{LETTER_INSTRUCTION}"
        return Example(str(row["example_idx"]), prompt, row["answer"].strip())
