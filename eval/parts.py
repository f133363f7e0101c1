"""A task at one of its levels: what is asked, and reported, on its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .tasks import Task, get_task


@dataclass(frozen=True)
class Part:
    """A task and a level of it."""

    name: str
    task: Task
    level: str

    @property
    def label(self) -> str:
        """As ``--tasks`` names it: ``tiny:easy``, or the task's name alone where it has one level."""
        return self.name if len(self.task.levels) == 1 else f"{self.name}:{self.level}"


def parse_part(text: str, data_dir: Path | None = None) -> Part:
    """Read ``TASK`` or ``TASK:LEVEL``; whether the task has the level is for ``Task.check`` to say.

    Args:
        text: as on the command line.
        data_dir: local data instead of the hub's (``Task``).

    Raises:
        ConfigError: no task has that name.
    """
    name, _, level = text.partition(":")
    task = get_task(name, data_dir)
    return Part(name, task, level or task.default_level)
