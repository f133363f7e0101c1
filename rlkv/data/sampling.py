"""Ask problem after problem until the buckets are full."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from rlkv.data.buckets import Sample, Selection
from rlkv.data.journal import Journal
from rlkv.data.source import Problem

Solver = Callable[[Sequence[Problem]], list[Sample | None]]
"""Attempts at a batch of problems, None where the model failed."""


def collect(
    problems: Iterator[Problem],
    solve: Solver,
    journal: Journal,
    selection: Selection,
    *,
    batch_size: int,
    max_problems: int | None = None,
    report: Callable[[Selection], None] = lambda selection: None,
) -> None:
    """Fill ``selection``, first from the journal and then by solving; stops when full or out of problems.

    Args:
        problems: from the first one, in the same order at every run.
        solve: attempts a batch.
        journal: gets every attempt, a batch at a time.
        selection: empty.
        batch_size: problems solved at once.
        max_problems: most problems asked, those of the journal included.
        report: called at the start and after each batch.
    """
    for attempt in journal.attempts:
        selection.add(attempt)
    report(selection)
    asked = len(journal.attempts)
    remaining = islice(problems, asked, None if max_problems is None else max(asked, max_problems))
    while not selection.full and (batch := list(islice(remaining, batch_size))):
        attempts = solve(batch)
        journal.append(attempts)
        for attempt in attempts:
            selection.add(attempt)
        report(selection)
