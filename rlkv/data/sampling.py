"""Ask problem after problem until the buckets are full."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice

from rlkv.data.buckets import Sample, Selection
from rlkv.data.journal import Journal
from rlkv.data.source import Problem

Attempts = Generator[list[tuple[int, Sample | None]], None, None]
"""Attempts as they finish, each with its problem's number, None where the model failed."""

Solver = Callable[[Iterator[tuple[int, Problem]]], Attempts]
"""Takes numbered problems as it has room for them, and attempts them in any order; closing it gives up what
is under way."""


def collect(
    problems: Iterator[Problem],
    solve: Solver,
    journal: Journal,
    selection: Selection,
    *,
    max_problems: int | None = None,
    report: Callable[[Selection], None] = lambda selection: None,
) -> None:
    """Fill ``selection``, first from the journal and then by solving; stops when full or out of problems.

    The selection takes attempts in the order of their problems, whatever the order in which they finish: the
    result does not depend on the solver's speed, nor on where an earlier run stopped.

    Args:
        problems: from the first one, in the same order at every run.
        solve: attempts problems.
        journal: gets every attempt as it finishes.
        selection: empty.
        max_problems: most problems asked; those of the journal count.
        report: called at the start and after each attempt.
    """
    waiting = dict(journal.attempts)
    known = frozenset(waiting)

    def take() -> None:
        while not selection.full and selection.asked in waiting:
            selection.add(waiting.pop(selection.asked))
        report(selection)

    take()
    numbered = enumerate(problems if max_problems is None else islice(problems, max_problems))
    if selection.full:
        return
    with closing(solve(item for item in numbered if item[0] not in known)) as finished:
        for attempts in finished:
            journal.append(attempts)
            waiting.update(attempts)
            take()
            if selection.full:
                return
