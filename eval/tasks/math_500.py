"""MATH-500: the 500 competition problems of arXiv 2305.20050, from MATH (arXiv 2103.03874)."""

from __future__ import annotations

from typing import ClassVar

from .base import Example, register
from .prompts import boxed
from .table import Row, TableTask


@register("math_500")
class Math500(TableTask):
    """Answers in LaTeX; levels 1 to 5 are the source's difficulties."""

    levels: ClassVar = ("all", "1", "2", "3", "4", "5")
    repo: ClassVar = "HuggingFaceH4/MATH-500"
    commit: ClassVar = "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"
    columns: ClassVar = ("problem", "answer", "level", "unique_id")

    def belongs(self, row: Row, level: str) -> bool:
        return level in ("all", str(row["level"]))

    def example(self, row: Row) -> Example:
        return Example(row["unique_id"], boxed(row["problem"]), row["answer"])
