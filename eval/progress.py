"""How a comparison tells what it is doing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft

from .results import Result


class Watcher(Protocol):
    """What a comparison calls as it goes."""

    def planned(self, answers: int, titles: Sequence[str]) -> None:
        """Work begins, of so many answers in all, in steps of these titles."""

    def started(self, title: str, answers: int, done: int) -> None:
        """A step of so many answers begins, of which ``done`` are there already."""

    def advanced(self, answers: int) -> None:
        """So many more answers of the step."""

    def finished(self, title: str, result: Result) -> None:
        """A step is complete."""

    def skipped(self, answers: int) -> None:
        """A step of so many answers will not be done."""

    def ranking(self, heads: int) -> None:
        """Ablation begins to rank so many heads."""

    def ranked(self, heads: int) -> None:
        """So many more heads are ranked."""


class Silent:
    """A watcher that says nothing."""

    def planned(self, answers: int, titles: Sequence[str]) -> None: ...
    def started(self, title: str, answers: int, done: int) -> None: ...
    def advanced(self, answers: int) -> None: ...
    def finished(self, title: str, result: Result) -> None: ...
    def skipped(self, answers: int) -> None: ...
    def ranking(self, heads: int) -> None: ...
    def ranked(self, heads: int) -> None: ...


class Terminal:
    """Two progress bars, the comparison and its current step, and a line for each finished step."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeLeft(),
            console=console,
        )
        self._all = self._progress.add_task("comparison", total=None, unit="answers", start=False)
        self._step: TaskID | None = None
        self._width = 0

    def __enter__(self) -> Terminal:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def planned(self, answers: int, titles: Sequence[str]) -> None:
        self._width = max(map(len, titles))
        self._progress.update(self._all, total=answers)
        self._progress.start_task(self._all)

    def started(self, title: str, answers: int, done: int) -> None:
        self._begin(title, answers, "answers", done)
        # Answers of an earlier run leave the total, or the time left would count on their speed.
        self._expect_fewer(done)

    def advanced(self, answers: int) -> None:
        self._advance(answers)
        self._progress.advance(self._all, answers)

    def finished(self, title: str, result: Result) -> None:
        self._progress.console.print(
            f"{title:<{self._width}}  accuracy {result.accuracy:6.1%} [{result.low:.1%}, {result.high:.1%}]"
            f"  length {result.mean_length:.0f}",
            highlight=False,
            markup=False,
        )

    def skipped(self, answers: int) -> None:
        self._expect_fewer(answers)

    def ranking(self, heads: int) -> None:
        self._begin("ranking by ablation", heads, "heads", 0)

    def ranked(self, heads: int) -> None:
        self._advance(heads)

    def _begin(self, description: str, total: int, unit: str, done: int) -> None:
        if self._step is not None:
            self._progress.remove_task(self._step)
        self._step = self._progress.add_task(description, total=total, completed=done, unit=unit)

    def _expect_fewer(self, answers: int) -> None:
        task = self._progress.tasks[0]
        self._progress.update(self._all, total=(task.total or 0) - answers)

    def _advance(self, steps: int) -> None:
        if self._step is not None:
            self._progress.advance(self._step, steps)
