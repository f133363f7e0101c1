"""Hyper-parameters and budget schedules of methods that drop tokens, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from .config import TOKEN_DROPPERS
from .results import Result
from .tables import empty_table

UNRECORDED = "not recorded"
"""In run folders of versions that did not write them down."""


def options_table(results: Sequence[Result]) -> Table | None:
    """A line a method; None where no method drops tokens."""
    rows = _rows(results)
    if not rows:
        return None
    lines = empty_table("Methods that drop tokens")
    for name in ("method", "budget schedule"):
        lines.add_column(name, no_wrap=True)
    lines.add_column("hyper-parameters")
    for row in rows:
        lines.add_row(*row)
    return lines


def options_lines(results: Sequence[Result]) -> list[str]:
    """The same as sentences."""
    return [
        f"{method}: {schedule} budget schedule, {options}" for method, schedule, options in _rows(results)
    ]


def _rows(results: Sequence[Result]) -> list[tuple[str, str, str]]:
    dropping = [result for result in results if result.method in TOKEN_DROPPERS]
    return list(dict.fromkeys((r.method, r.schedule or UNRECORDED, _in_words(r.options)) for r in dropping))


def _in_words(options: dict[str, Any] | None) -> str:
    """Only numbers: nothing else can be set (``rivals.recipe.droppers``)."""
    if options is None:
        return UNRECORDED
    return ", ".join(f"{name} {value:g}" for name, value in options.items() if isinstance(value, int | float))
