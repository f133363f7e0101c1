"""How a throughput run tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


@dataclass(frozen=True)
class Progress:
    """A bar for the measurement that runs; a line for each on a console that is no terminal."""

    console: Console

    @contextmanager
    def of(self, name: str, tokens: int) -> Iterator[Callable[[int], None]]:
        """Measure ``tokens`` new tokens; call what is given with the number of those that came."""
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,} tokens"))
        with Bars(*columns, TimeElapsedColumn(), console=self.console) as bars:
            task = bars.add_task(name, total=tokens)
            yield lambda made: bars.advance(task, made)
