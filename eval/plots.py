"""Accuracy against sparsity, or against the budget, a panel a task, a line a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rlkv.errors import DataError

from .config import ABLATION, ALL_STREAMING, FULL, KVZIP_HEADS, RANDOM, RLKV, TOKEN_DROPPERS
from .results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT = "#33373d", "#d9dce1"

OTHER_COLOURS = ("#e69f00", "#56b4e9", "#7f5539", "#6a51a3")
DROPPER_COLOURS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f5539")
COLOURS = {
    FULL: INK,
    RLKV: "#0072b2",
    ABLATION: "#d55e00",
    RANDOM: "#009e73",
    ALL_STREAMING: "#cc79a7",
    KVZIP_HEADS: "#6a51a3",
    **dict(zip(TOKEN_DROPPERS, DROPPER_COLOURS, strict=True)),
}
"""Okabe and Ito's palette, which colour-blind readers can tell apart, and two dark tones beyond it. Token
droppers take the same colours again, with dashed lines."""

DASHES = (0, (4, 2))

MARKERS = {RLKV: "o", ABLATION: "s", RANDOM: "^", ALL_STREAMING: "D"}

LABEL_ROOM = 0.24
"""Room to the right of the last point for its label, as a share of the points' span."""

LABEL_GAP = 0.052
"""Least vertical distance of two labels, as a share of the axis."""


MAX_COLUMNS = 3
"""Panels side by side."""


def plot_accuracy(tasks: Mapping[str, Sequence[Result]], path: Path) -> None:
    """Draw the comparison into a PNG or SVG file.

    Args:
        tasks: results of each task under the title of its panel; at least one.
        path: where to; the suffix picks the format.

    Raises:
        DataError: the file cannot be written.
    """
    from matplotlib import rc_context  # here: half a second that only this function needs
    from matplotlib.figure import Figure

    columns = min(len(tasks), MAX_COLUMNS)
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(7.2 * columns, 4.4 * rows), layout="constrained")
    for place, (title, results) in enumerate(tasks.items(), start=1):
        _draw_task(figure.add_subplot(rows, columns, place), results, title)
    try:
        # The same picture is the same file: no date in it, and no ids drawn at random.
        with rc_context({"svg.hashsalt": "rlkv"}):
            figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as error:
        raise DataError(f"{path}: cannot write: {error.strerror or error}") from error


def colours(results: Sequence[Result]) -> dict[str, str]:
    """A colour for each method, in the methods' order."""
    methods = list(dict.fromkeys(result.method for result in results))
    spare = iter(OTHER_COLOURS * len(methods))
    return {method: COLOURS.get(method) or next(spare) for method in methods}


def _draw_task(axes: Axes, results: Sequence[Result], title: str) -> None:
    if any(result.budget is not None for result in results):
        results = [r for r in results if r.method == FULL or r.budget is not None]
    _prepare(axes, results, title)
    labels = []
    for method, colour in colours(results).items():
        if method == FULL:
            continue
        own = sorted((r for r in results if r.method == method), key=_saving)
        height = _draw_draws(axes, own, colour) if method == RANDOM else _draw_line(axes, own, colour)
        labels.append((height, own[-1].level, method, colour))
    for result in results:
        if result.method == FULL:
            _draw_full(axes, result)
    _label(axes, labels)


def _saving(result: Result) -> float:
    """Orders results by what they save, which the picture shows from left to right."""
    return result.sparsity if result.budget is None else -result.budget


def _prepare(axes: Axes, results: Sequence[Result], title: str) -> None:
    budgets = any(result.budget is not None for result in results)
    levels = sorted({r.level for r in results if r.method != FULL}, reverse=budgets) or [0.0, 1.0]
    span = (-1 if budgets else 1) * max(abs(levels[-1] - levels[0]), 0.1)
    axes.set_xlim(levels[0] - 0.05 * span, levels[-1] + LABEL_ROOM * span)
    axes.set_xticks(levels, [f"{level:g}" for level in levels])
    axes.set_ylim(-0.02, 1.06)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1], ["0", "20%", "40%", "60%", "80%", "100%"])
    what = "budget (share of full's KV bytes)" if budgets else "sparsity (share of KV heads that stream)"
    axes.set_xlabel(what, color=INK)
    axes.set_ylabel("accuracy, 95% interval", color=INK)
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    axes.spines[:].set_visible(False)


def _draw_full(axes: Axes, full: Result) -> None:
    """The reference across the picture, named at its left end, where no other label is."""
    axes.axhline(full.accuracy, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1.5)
    axes.axhspan(full.low, full.high, color=INK, alpha=0.1, linewidth=0)
    axes.annotate(
        f"full {full.accuracy:.1%}",
        (0.0, full.accuracy),
        xycoords=("axes fraction", "data"),
        xytext=(2, 4),
        textcoords="offset points",
        fontsize=9,
        color=INK,
        va="bottom",
    )


def _draw_line(axes: Axes, results: list[Result], colour: str) -> float:
    """One line with error bars; returns the height of its last point."""
    x, y = [r.level for r in results], [r.accuracy for r in results]
    errors = [[r.accuracy - r.low for r in results], [r.high - r.accuracy for r in results]]
    style: Any = {"color": colour, "marker": MARKERS.get(results[0].method, "v"), "markersize": 5}
    if results[0].method in TOKEN_DROPPERS:
        style["linestyle"] = DASHES
    axes.errorbar(x, y, yerr=errors, linewidth=1.8, elinewidth=1.1, capsize=2.5, **style)
    return y[-1]


def _draw_draws(axes: Axes, results: list[Result], colour: str) -> float:
    """A line through the mean of the draws, each draw a faint dot; returns the height of its last point."""
    groups: dict[float, list[float]] = {}
    for result in results:
        groups.setdefault(result.level, []).append(result.accuracy)
    x, y = [r.level for r in results], [r.accuracy for r in results]
    axes.scatter(x, y, color=colour, alpha=0.35, s=14, linewidth=0)
    means = [fmean(group) for group in groups.values()]
    axes.plot(list(groups), means, color=colour, marker=MARKERS[RANDOM], markersize=5, linewidth=1.8)
    return means[-1]


def _label(axes: Axes, labels: list[tuple[float, float, str, str]]) -> None:
    """Write each method's name to the right of its last point, apart where they would overlap."""
    taken: dict[float, float] = {}
    for height, level, method, colour in sorted(labels):
        place = max(height, taken.get(level, -1.0) + LABEL_GAP)
        taken[level] = place
        text = "random (mean of dots)" if method == RANDOM else method
        style: Any = {"color": colour, "fontsize": 9, "va": "center"}
        axes.annotate(text, (level, place), xytext=(9, 0), textcoords="offset points", **style)
