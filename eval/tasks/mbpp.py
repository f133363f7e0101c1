"""MBPP (arXiv 2108.07732): short Python functions, graded by asserts that run in a sandbox."""

from __future__ import annotations

from typing import ClassVar

from rlkv.grading import CODE
from rlkv.grading.sandbox import require_sandbox

from .base import Example, register
from .prompts import CODE_INSTRUCTION
from .table import Row, TableTask


@register("mbpp")
class MBPP(TableTask):
    """500 test problems, 90 for validation. The prompt shows the asserts: they name the function."""

    grader: ClassVar = CODE
    splits: ClassVar = ("test", "validation")
    repo: ClassVar = "google-research-datasets/mbpp"
    commit: ClassVar = "4bb6404fdc6cacfda99d4ac4205087b89d32030c"
    config: ClassVar = "full"
    columns: ClassVar = ("task_id", "text", "test_setup_code", "test_list")

    def check(self, level: str, split: str) -> None:
        super().check(level, split)
        require_sandbox()

    def example(self, row: Row) -> Example:
        setup = row["test_setup_code"].replace("\r\n", "\n").strip()
        tests = "\n".join([*([setup] if setup else []), *row["test_list"]])
        task = f"{row['text'].strip()}\n\nThe code must pass these tests:\n\n```python\n{tests}\n```"
        return Example(str(row["task_id"]), f"{task}\n\n{CODE_INSTRUCTION}", tests)
