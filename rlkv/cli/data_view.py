"""How ``rlkv data`` shows its progress and its result in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich import progress
from rich.console import Console
from rich.table import Table

from rlkv.data import Bucket, Selection


class Progress:
    """A bar for the problems asked and one per bucket, with the time left at the present rate."""

    def __init__(self, buckets: Sequence[Bucket]) -> None:
        self._bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("time left"),
            progress.TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            speed_estimate_period=600,
        )
        self._tasks = [self._bars.add_task(_tokens(bucket), total=bucket.count) for bucket in buckets]
        self._status = self._bars.add_task("", total=sum(bucket.count for bucket in buckets))

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, selection: Selection) -> None:
        """Bring the bars up to date."""
        for task, kept in zip(self._tasks, selection.kept, strict=True):
            self._bars.update(task, completed=len(kept))
        self._bars.update(
            self._status,
            completed=sum(map(len, selection.kept)),
            description=f"asked {selection.asked}, solved {selection.solved}",
        )


def print_summary(selection: Selection, out: Path) -> None:
    """Print what was asked, solved and kept, and what to do where a bucket stayed short."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("bucket", "response", "wanted", "kept"):
        table.add_column(name, justify="right", no_wrap=True)
    for index, (bucket, kept) in enumerate(zip(selection.buckets, selection.kept, strict=True)):
        table.add_row(str(index), _tokens(bucket), str(bucket.count), str(len(kept)))
    console = Console(highlight=False)
    console.print(table)
    share = selection.solved / max(selection.asked, 1)
    console.print(f"asked {selection.asked}, solved {selection.solved} ({share:.1%})")
    if not selection.full:
        console.print("note: a bucket is not full; the problems or --max-problems ran out")
    console.print(f"{out}: {sum(map(len, selection.kept))} samples", markup=False, soft_wrap=True)


def _tokens(bucket: Bucket) -> str:
    return f"{bucket.min_tokens + 1}-{bucket.max_tokens} tokens"
