"""What a task is: problems with answers, a token limit, and how the degenerate answers are told.

A new task is one file in this folder: a subclass of ``Task`` under ``@register("name")``.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rlkv.errors import ConfigError
from rlkv.grading import MATH, Verdict, grade_batch

from ..metrics import PAPER_REPETITION, Repetition


@dataclass(frozen=True)
class Example:
    """One problem.

    Attributes:
        id: the same in every run, on every machine.
        prompt: the user's message, before the model's chat template.
        answer: what the grader compares with: LaTeX or text, a letter, or Python asserts.
    """

    id: str
    prompt: str
    answer: str


def digest_id(text: str) -> str:
    """An id for a problem that has none of its own."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Task(ABC):
    """A set of graded problems.

    Attributes:
        name: in the registry.
        levels: parts that are reported on their own (a difficulty, a subject, a context length).
        default_level: the part meant where none is named.
        splits: disjoint sets of problems; ``test`` is reported, ``validation`` is for choosing heads.
        repetition: which answers count as repetitive.
        grader: of the answers (``rlkv.grading.GRADERS``).

    Args:
        data_dir: folder with a sub-folder a task of local data; None reads from the hub. Tasks that generate
            their problems have no use for it.
    """

    name: ClassVar[str]
    levels: ClassVar[tuple[str, ...]]
    default_level: ClassVar[str]
    splits: ClassVar[tuple[str, ...]] = ("test", "validation")
    repetition: ClassVar[Repetition] = PAPER_REPETITION
    grader: ClassVar[str] = MATH

    def __init__(self, data_dir: Path | None = None) -> None:
        self.data_dir = data_dir

    @property
    @abstractmethod
    def revision(self) -> str:
        """What names the state of the task's problems: a commit on the hub, a digest, a version."""

    @abstractmethod
    def examples(self, level: str, split: str, seed: int, count: int) -> list[Example]:
        """The first ``count`` problems, or all if there are fewer; the same arguments give the same ones."""

    @abstractmethod
    def default_problems(self, level: str) -> int:
        """How many test problems a run takes where the user names no number."""

    @abstractmethod
    def max_new_tokens(self, level: str) -> int:
        """Tokens after which an answer counts as overlong."""

    def grade(
        self, examples: Sequence[Example], texts: Sequence[str], *, thinking: bool = True
    ) -> list[Verdict]:
        """Judge one answer to each example.

        Args:
            examples: of this task; one may come several times.
            texts: the answers, in the same order, without the chat template's opening ``<think>``.
            thinking: False for models without thoughts (``rlkv.grading.grade``).
        """
        answers = [example.answer for example in examples]
        return grade_batch(texts, answers, kinds=self.grader, thinking=thinking)

    def check(self, level: str, split: str) -> None:
        """Refuse a level or split that the task lacks, or a machine that cannot grade it.

        Raises:
            ConfigError: which level or split, and those there are.
            RLKVError: what grading needs and this machine lacks.
        """
        for kind, name, known in (("level", level, self.levels), ("split", split, self.splits)):
            if name not in known:
                raise ConfigError(f"{kind} is {name!r}, expected one of {', '.join(known)}")


REGISTERED: dict[str, type[Task]] = {}


def register(name: str) -> Callable[[type[Task]], type[Task]]:
    """Make a task known under ``name``."""

    def add(task: type[Task]) -> type[Task]:
        task.name = name
        REGISTERED[name] = task
        return task

    return add
