"""A run folder's tables, summary, pictures and page, made again from its results at any time."""

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
from .folder import Run, read_answers, read_run, write_text
from .glossary import glossary
from .html.page import page
from .markdown import markdown
from .options import options_table
from .plots import Panel, plot_accuracy
from .published import Published, beside, model_to_draw, of_task, read_published
from .results import Answered, Result
from .tables import empty_table

COLUMNS = (
    *("method", "sparsity", "accuracy", "95% interval", "length"),
    *("repetitive", "overlong", "incorrect", "unparsed", "KV KiB", "KV of full", "p vs full"),
)
BUDGET = "budget"

SUMMARY_FILE, MARKDOWN_FILE, PAGE_FILE, HEADS_FILE = "summary.json", "report.md", "report.html", "heads.png"
ACCURACY_FILES = ("accuracy.png", "accuracy.svg")


def report(folder: Path, published: Path | None = None, published_model: str | None = None) -> list[Table]:
    """Write summary, pictures, Markdown and the HTML page into a run folder.

    Args:
        folder: of the run.
        published: table of published figures (``published.read_published``).
        published_model: the table's model to draw, None to choose (``published.model_to_draw``).

    Returns:
        Tables for the terminal: one a task, one of published figures where there are some of the task, the
        settings of methods that drop tokens where there are some, and what the columns mean.

    Raises:
        ConfigError: the table lacks the model that was asked for.
        DataError: the folder holds no results, or cannot be written; the published figures cannot be read.
    """
    run = read_run(folder)
    rows = read_published(published) if published else []
    model = model_to_draw(rows, published_model, run.model)
    answers = read_answers(folder, run)
    if not answers:
        raise DataError(f"{folder}: holds no answers yet, expected at least one batch")
    results = [result for result, _ in answers]
    summary = {**asdict(run), "results": [asdict(result) for result in results]}
    del summary["entries"]
    write_text(folder / SUMMARY_FILE, json.dumps(summary, indent=1) + "\n")
    by_task = {task: [r for r in results if r.task == task] for task in run.tasks}
    answered = {task: own for task, own in by_task.items() if own}
    source = published.name if published else ""
    panels = {
        task: Panel(
            caption(run, task), own, beside(rows, task, model, dict.fromkeys(r.method for r in own)), source
        )
        for task, own in answered.items()
    }
    for name in ACCURACY_FILES:
        plot_accuracy(list(panels.values()), folder / name)
    _plot_heads(folder, run)
    tables = []
    for task, own in answered.items():
        tables.append(table(own, panels[task].title))
        if theirs := of_task(rows, task):
            tables.append(published_table(theirs, f"{task}, published accuracy by sparsity ({source})"))
    if options := options_table(results):
        tables.append(options)
    tables.append(glossary(columns(results)))
    write_text(folder / MARKDOWN_FILE, f"![Accuracy]({ACCURACY_FILES[0]})\n\n{markdown(tables)}")
    write_text(folder / PAGE_FILE, page(folder, run, panels, in_order(answers), rows))
    return tables


def caption(run: Run, task: str) -> str:
    """One line that says what was compared on a task."""
    window = f", window {run.window}" if run.window else ""
    draws = f" x {run.settings['samples']}" if run.settings["samples"] > 1 else ""
    return f"{Path(run.model).name}, {task}, n = {run.tasks[task]['num_problems']}{draws}{window}"


def table(results: Sequence[Result], title: str) -> Table:
    """Method by sparsity; draws of random share a row, their lowest and highest in place of an interval."""
    lines = empty_table(title)
    names = columns(results)
    for name in names:
        lines.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    previous = None
    for (method, _), group in grouped(results).items():
        if previous not in (None, method):
            lines.add_section()
        lines.add_row(*_cells(group, BUDGET in names))
        previous = method
    return lines


def columns(results: Sequence[Result]) -> tuple[str, ...]:
    """Names of the table's columns; budgets have one where there are some."""
    budgets = any(result.budget is not None for result in results)
    return (COLUMNS[0], BUDGET, *COLUMNS[1:]) if budgets else COLUMNS


def published_table(rows: Sequence[Published], title: str) -> Table:
    """Model by method, a column a sparsity; the cells of a task that the file lacks are empty."""
    lines = empty_table(title)
    levels = sorted({level for row in rows for level in row.accuracy})
    for name in ("model", "method", "full", *(f"{level:g}" for level in levels)):
        lines.add_column(name, justify="left" if name in ("model", "method") else "right", no_wrap=True)
    for row in rows:
        cells = [f"{row.accuracy[level]:.1%}" if level in row.accuracy else "-" for level in levels]
        lines.add_row(row.model, row.method, f"{row.full:.1%}", *cells)
    return lines


def in_order(answers: Sequence[Answered]) -> list[Answered]:
    """Results with their answers, in the order of the table."""
    groups = grouped([result for result, _ in answers])
    order = {result.file: place for place, result in enumerate(r for own in groups.values() for r in own)}
    return sorted(answers, key=lambda answered: order[answered[0].file])


def grouped(results: Sequence[Result]) -> dict[tuple[str, float], list[Result]]:
    """Results by method and level: full, RLKV, then the others as they come, what saves least first."""
    others = [r.method for r in results if r.method not in (RANDOM, ALL_STREAMING)]
    methods = [FULL, RLKV, *others, RANDOM, ALL_STREAMING]
    order = {name: place for place, name in reversed(list(enumerate(methods)))}
    groups: dict[tuple[str, float], list[Result]] = {}
    for result in sorted(results, key=lambda r: (order[r.method], -(r.budget or 0), r.level, r.seed or 0)):
        groups.setdefault((result.method, result.level), []).append(result)
    return groups


def _cells(group: list[Result], budgets: bool) -> list[str]:
    interval = f"[{group[0].low:.1%}, {group[0].high:.1%}]"
    if len(group) > 1:
        lowest, highest = (pick(r.accuracy for r in group) for pick in (min, max))
        interval = f"{len(group)} draws {lowest:.1%} to {highest:.1%}"
    elif not group[0].finished:
        interval += f" of {group[0].num_problems} answered"
    shares = [r.kv_share for r in group if r.kv_share is not None]
    first = group[0]
    budget = [] if not budgets else ["-" if first.budget is None else f"{first.budget:g}"]
    return [
        first.method,
        *budget,
        "-" if first.method in TOKEN_DROPPERS else f"{first.sparsity:.3g}",
        f"{_mean(group, 'accuracy'):.1%}",
        interval,
        f"{_mean(group, 'mean_length'):.0f}",
        f"{_mean(group, 'repetitive'):.1%}",
        f"{_mean(group, 'overlong'):.1%}",
        f"{_mean(group, 'incorrect'):.1%}",
        f"{_mean(group, 'unparsed'):.1%}",
        f"{_mean(group, 'kv_bytes') / 1024:.0f}",
        f"{fmean(shares):.1%}" if shares else "-",
        _p_value(group),
    ]


def _p_value(group: list[Result]) -> str:
    """Of the paired test against full; draws have one each, which no mean can stand for."""
    pairs = group[0].against_full
    if pairs is None or len(group) > 1:
        return "-"
    return f"{pairs.p_value:.2g}" if pairs.p_value >= 0.001 else "<0.001"


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
