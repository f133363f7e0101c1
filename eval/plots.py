"""Accuracy against sparsity, or against the KV bytes held, a panel a task, a line a method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rlkv.errors import DataError

from .axis import Axis, axis_of
from .config import ABLATION, ALL_STREAMING, FULL, KVZIP_HEADS, RANDOM, RLKV, TOKEN_DROPPERS
from .labels import Label, draw_labels, right_limit
from .published import Published
from .results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Transform

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
droppers take the same colours again, with dotted lines."""

SOLID: tuple[float, ...] = ()
DOTTED = (1.2, 1.2)
DASHED = (4.0, 2.0)
"""Strokes and gaps in line widths: measured methods by heads, token droppers, published figures."""

MARKERS = {RLKV: "o", ABLATION: "s", RANDOM: "^", ALL_STREAMING: "D"}

MARGIN = 0.05
"""Room beside the outermost places, as a share of their span."""

DODGE = 3.0
"""Points between the marks of two methods at one place, so that their intervals do not cover each other."""

MAX_COLUMNS = 3
"""Panels side by side."""


@dataclass(frozen=True)
class Panel:
    """What one task's picture shows.

    Attributes:
        title: of the panel.
        results: measured; at least one.
        published: to draw beside, by the run's names of the methods (``published.beside``).
        source: what the published figures are from.
    """

    title: str
    results: Sequence[Result]
    published: Sequence[Published] = ()
    source: str = ""


def plot_accuracy(panels: Sequence[Panel], path: Path) -> None:
    """Draw the comparison into a PNG or SVG file.

    Args:
        panels: one a task; at least one.
        path: where to; the suffix picks the format.

    Raises:
        DataError: the file cannot be written.
    """
    from matplotlib import rc_context  # here: half a second that only this function needs
    from matplotlib.figure import Figure

    columns = min(len(panels), MAX_COLUMNS)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(7.2 * columns, 4.4 * rows), layout="constrained")
    for place, panel in enumerate(panels, start=1):
        _draw_task(figure.add_subplot(rows, columns, place), panel)
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


def dashes(method: str) -> tuple[float, ...]:
    """Strokes and gaps of a measured method's line, in line widths; empty for a solid one."""
    return DOTTED if method in TOKEN_DROPPERS else SOLID


def _draw_task(axes: Axes, panel: Panel) -> None:
    axis = axis_of(panel.results)
    placed = [r for r in panel.results if axis.place(r) is not None]
    methods = list(dict.fromkeys(r.method for r in placed))
    _prepare(axes, panel, axis)
    labels: list[Label] = []
    for number, (method, colour) in enumerate(
        (m, c) for m, c in colours(panel.results).items() if m in methods
    ):
        own = sorted((r for r in placed if r.method == method), key=lambda r: r.level, reverse=axis.of_bytes)
        moved = _moved(axes, DODGE * (number - (len(methods) - 1) / 2))
        draw = _draw_draws if method == RANDOM else _draw_line
        text = "random (mean of dots)" if method == RANDOM else method
        labels.append(Label(*draw(axes, own, axis, colour, moved), text, colour))
        for row in (row for row in panel.published if row.method == method and row.accuracy):
            labels.append(Label(*_draw_published(axes, row, axis, colour), _published_name(method), colour))
    start, *_, end = _places(panel, axis) * 2
    for result in panel.results:
        if result.method == FULL:
            labels += _draw_full(axes, result, panel.published, end)
    left = axes.get_xlim()[0]
    axes.set_xlim(
        left, max((right_limit(label, left, start, end) for label in labels), key=lambda x: abs(x - left))
    )
    draw_labels(axes, labels)


def _places(panel: Panel, axis: Axis) -> list[float]:
    """All places of a picture from left to right, those of the marks included; never none."""
    marks = axis.marks(panel.results, panel.published) or (0.0, 1.0)
    found = [*marks, *(place for r in panel.results if (place := axis.place(r)) is not None)]
    return sorted(found, reverse=axis.of_bytes)


def _moved(axes: Axes, points: float) -> Transform:
    """Data coordinates moved to the right by so many points."""
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure()
    assert figure is not None, "axes are made by their figure"
    return axes.transData + ScaledTranslation(points / 72, 0, figure.dpi_scale_trans)


def _prepare(axes: Axes, panel: Panel, axis: Axis) -> None:
    marks = axis.marks(panel.results, panel.published)
    first, *_, last = _places(panel, axis) * 2
    span = (-1 if axis.of_bytes else 1) * max(abs(last - first), 0.1)
    axes.set_xlim(first - MARGIN * span, last + MARGIN * span)
    axes.set_xticks(list(marks), list(marks.values()))
    axes.set_ylim(-0.02, 1.06)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1], ["0", "20%", "40%", "60%", "80%", "100%"])
    axes.set_xlabel(f"{axis.name} ({axis.note})", color=INK)
    axes.set_ylabel("accuracy, 95% interval", color=INK)
    axes.set_title("\n".join([panel.title, *_line_notes(panel, axis)]), fontsize=10, color=INK, loc="left")
    axes.grid(axis="both" if axis.of_bytes else "y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    axes.spines[:].set_visible(False)


def _line_notes(panel: Panel, axis: Axis) -> Iterator[str]:
    """What the patterns of lines mean, of those that are there."""
    if any(dashes(r.method) == DOTTED for r in panel.results if axis.place(r) is not None):
        yield "dotted: methods that drop tokens"
    if panel.published:
        yield f"dashed: published, {panel.published[0].model} ({panel.source})"


def _draw_full(axes: Axes, full: Result, published: Sequence[Published], end: float) -> list[Label]:
    """The references, measured and published, from the left to the last place."""
    start = axes.get_xlim()[0]
    axes.hlines(full.accuracy, start, end, color=INK, linewidth=1.1, zorder=1.5)
    axes.fill_between([start, end], full.low, full.high, color=INK, alpha=0.1, linewidth=0)
    labels = [Label(end, full.accuracy, f"{FULL} {full.accuracy:.1%}", INK)]
    if published:
        theirs = published[0].full
        axes.hlines(theirs, start, end, color=INK, linewidth=1.1, linestyle=(0, DASHED), zorder=1.5)
        labels.append(Label(end, theirs, f"{_published_name(FULL)} {theirs:.1%}", INK))
    return labels


def _draw_line(
    axes: Axes, results: list[Result], axis: Axis, colour: str, moved: Transform
) -> tuple[float, float]:
    """One line with error bars; returns its last point."""
    x, y = [axis.place(r) or 0.0 for r in results], [r.accuracy for r in results]
    errors = [[r.accuracy - r.low for r in results], [r.high - r.accuracy for r in results]]
    style: Any = {"color": colour, "marker": MARKERS.get(results[0].method, "v"), "markersize": 5}
    pattern = dashes(results[0].method)
    style["linestyle"] = (0, pattern) if pattern else "-"
    axes.errorbar(x, y, yerr=errors, linewidth=1.8, elinewidth=1.1, capsize=2.5, transform=moved, **style)
    return x[-1], y[-1]


def _draw_draws(
    axes: Axes, results: list[Result], axis: Axis, colour: str, moved: Transform
) -> tuple[float, float]:
    """A line through the mean of the draws, each draw a faint dot; returns its last point."""
    x, y = [axis.place(r) or 0.0 for r in results], [r.accuracy for r in results]
    axes.scatter(x, y, color=colour, alpha=0.35, s=14, linewidth=0, transform=moved)
    groups: dict[float, list[tuple[float, float]]] = {}
    for result, point in zip(results, zip(x, y, strict=True), strict=True):
        groups.setdefault(result.level, []).append(point)
    means = [(fmean(x for x, _ in group), fmean(y for _, y in group)) for group in groups.values()]
    x, y = [x for x, _ in means], [y for _, y in means]
    axes.plot(x, y, color=colour, marker=MARKERS[RANDOM], markersize=5, linewidth=1.8, transform=moved)
    return means[-1]


def _draw_published(axes: Axes, row: Published, axis: Axis, colour: str) -> tuple[float, float]:
    """Dashed, with hollow marks and no interval, which tables do not give; returns the last point."""
    points = sorted(
        ((axis.place_published(sparsity), accuracy) for sparsity, accuracy in row.accuracy.items()),
        reverse=axis.of_bytes,
    )
    x, y = zip(*points, strict=True)
    style: Any = {"marker": MARKERS.get(row.method, "v"), "markersize": 5, "markerfacecolor": "white"}
    axes.plot(x, y, color=colour, linewidth=1.1, linestyle=(0, DASHED), **style)
    return points[-1]


def _published_name(method: str) -> str:
    return f"{method}, published"
