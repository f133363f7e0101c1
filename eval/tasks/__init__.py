"""Tasks by name. A module of this package that registers a task is found by being here."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from .base import REGISTERED, Example, Task

__all__ = ["Example", "Task", "get_task", "task_names"]


def get_task(name: str, data_dir: Path | None = None) -> Task:
    """The task of that name.

    Args:
        name: in the registry.
        data_dir: local data instead of the hub's (``Task``).

    Raises:
        ConfigError: no task has it.
    """
    from rlkv.errors import ConfigError

    if name not in task_names():
        raise ConfigError(f"task is {name!r}, expected one of {', '.join(task_names())}")
    return REGISTERED[name](data_dir)


@cache
def task_names() -> tuple[str, ...]:
    """All tasks, in alphabetical order."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return tuple(sorted(REGISTERED))
