"""A run folder's table, summary and pictures, made again from its results at any time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from rlkv.errors import DataError
from rlkv.heads import HeadsFile, heat_map, streaming_mask

from .config import ALL_STREAMING, FULL, RANDOM, RLKV, TOKEN_DROPPERS
from .folder import Run, read_results, read_run, write_text
from .plots import plot_accuracy
from .results import Result

COLUMNS = (
    *("method", "sparsity", "accuracy", "95% interval", "length"),
    *("overlong", "repetitive", "KV KiB", "KV of full"),
)
BUDGET = "budget"

SUMMARY_FILE, ACCURACY_FILE, HEADS_FILE = "summary.json", "accuracy.png", "heads.png"


def report(folder: Path) -> list[Table]:
    """Write summary and pictures into a run folder; returns a table a task for the terminal.

    Raises:
        DataError: the folder holds no results, or cannot be written.
    """
    run = read_run(folder)
    results = read_results(folder, run)
    if not results:
        raise DataError(f"{folder}: holds no answers yet, expected at least one batch")
    figures = [asdict(result) for result in results]
    summary = {**asdict(run), "results": figures}
    del summary["entries"]
    write_text(folder / SUMMARY_FILE, json.dumps(summary, indent=1) + "\n")
    by_task = {caption(run, task): [r for r in results if r.task == task] for task in run.tasks}
    answered = {title: own for title, own in by_task.items() if own}
    plot_accuracy(answered, folder / ACCURACY_FILE)
    _plot_heads(folder, run)
    return [table(own, title) for title, own in answered.items()]


def caption(run: Run, task: str) -> str:
    """One line that says what was compared on a task."""
    window = f", window {run.window}" if run.window else ""
    draws = f" x {run.settings['samples']}" if run.settings["samples"] > 1 else ""
    return f"{Path(run.model).name}, {task}, n = {run.tasks[task]['num_problems']}{draws}{window}"


def table(results: Sequence[Result], title: str) -> Table:
    """Method by sparsity; draws of random share a row, their lowest and highest in place of an interval."""
    lines = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    lines.padding = (0, 2, 0, 0)
    budgets = any(result.budget is not None for result in results)
    for name in (COLUMNS[0], BUDGET, *COLUMNS[1:]) if budgets else COLUMNS:
        lines.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    previous = None
    for (method, _), group in grouped(results).items():
        if previous not in (None, method):
            lines.add_section()
        lines.add_row(*_cells(method if method != previous else "", group, budgets))
        previous = method
    return lines


def grouped(results: Sequence[Result]) -> dict[tuple[str, float], list[Result]]:
    """Results by method and level: full, RLKV, then the others as they come, what saves least first."""
    others = [r.method for r in results if r.method not in (RANDOM, ALL_STREAMING)]
    methods = [FULL, RLKV, *others, RANDOM, ALL_STREAMING]
    order = {name: place for place, name in reversed(list(enumerate(methods)))}
    groups: dict[tuple[str, float], list[Result]] = {}
    for result in sorted(results, key=lambda r: (order[r.method], -(r.budget or 0), r.level, r.seed or 0)):
        groups.setdefault((result.method, result.level), []).append(result)
    return groups


def _cells(method: str, group: list[Result], budgets: bool) -> list[str]:
    interval = f"[{group[0].low:.1%}, {group[0].high:.1%}]"
    if len(group) > 1:
        lowest, highest = (pick(r.accuracy for r in group) for pick in (min, max))
        interval = f"{len(group)} draws {lowest:.1%} to {highest:.1%}"
    elif not group[0].finished:
        interval += f" of first {group[0].num_problems}"
    shares = [r.kv_share for r in group if r.kv_share is not None]
    first = group[0]
    budget = [] if not budgets else ["-" if first.budget is None else f"{first.budget:g}"]
    return [
        method,
        *budget,
        "-" if first.method in TOKEN_DROPPERS else f"{first.sparsity:.3g}",
        f"{_mean(group, 'accuracy'):.1%}",
        interval,
        f"{_mean(group, 'mean_length'):.0f}",
        f"{_mean(group, 'overlong'):.1%}",
        f"{_mean(group, 'repetitive'):.1%}",
        f"{_mean(group, 'kv_bytes') / 1024:.0f}",
        f"{fmean(shares):.1%}" if shares else "-",
    ]


def _mean(group: list[Result], field: str) -> float:
    values: list[Any] = [getattr(result, field) for result in group]
    return fmean(values)


def _plot_heads(folder: Path, run: Run) -> None:
    """A heat map of each heads file that took part; RLKV's is plainly ``heads.png``."""
    for method, relative in {entry.method: entry.heads for entry in run.entries if entry.heads}.items():
        heads = HeadsFile.read(folder / relative)
        name = HEADS_FILE if method == RLKV else f"heads-{method}.png"
        sparsity = heads.recommended_sparsity
        title = f"{Path(run.model).name}: {method}, sparsity {sparsity:g}"
        heat_map(heads.gates, folder / name, title, streaming_mask(heads.gates, sparsity))
