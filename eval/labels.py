"""Names of a picture's lines, beside their last points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LETTER = 0.0125
"""Width of a label's letter, as a share of the axis."""

LABEL_GAP = 0.052
"""Least vertical distance of two labels, as a share of the axis."""

COLUMN = 0.12
"""Labels whose points are nearer than this, as a share of the axis, stand in one column."""


@dataclass(frozen=True)
class Label:
    """A name beside a line's last point.

    Attributes:
        place: of the point, in data coordinates.
        height: the same.
        text: the name.
        colour: of the line.
    """

    place: float
    height: float
    text: str
    colour: str


def right_limit(label: Label, left: float, start: float, end: float) -> float:
    """Where the axis has to end so that a label has room.

    Args:
        label: to the right of its place.
        left: where the axis begins.
        start: leftmost place.
        end: rightmost place.
    """
    room = LETTER * (len(label.text) + 2)
    # A column stands at its rightmost point; its reach, a share of the axis, is not known yet: taken double.
    column = end if abs(label.place - end) < COLUMN * abs(end - start) * 2 else label.place
    return left + (column - left) / (1 - room)


def draw_labels(axes: Axes, labels: Sequence[Label]) -> None:
    """Write names to the right of the last points, in columns, apart where they would overlap."""
    left, right = axes.get_xlim()
    columns: dict[float, list[Label]] = {}
    for label in sorted(labels, key=lambda label: label.place, reverse=bool(right > left)):
        near = (place for place in columns if abs(place - label.place) < COLUMN * abs(right - left))
        columns.setdefault(next(near, label.place), []).append(label)
    ground = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1}  # a line may pass behind
    for place, column in columns.items():
        column.sort(key=lambda label: label.height)
        heights = spread([label.height for label in column], LABEL_GAP, axes.get_ylim()[1])
        for label, height in zip(column, heights, strict=True):
            style: Any = {"color": label.colour, "fontsize": 9, "va": "center", "bbox": ground}
            axes.annotate(label.text, (place, height), xytext=(12, 0), textcoords="offset points", **style)


def spread(heights: Sequence[float], gap: float, top: float) -> list[float]:
    """Rising heights moved apart by at least a gap: up, and down again where they would leave the top."""
    places: list[float] = []
    for height in heights:
        places.append(max(height, places[-1] + gap) if places else height)
    limit = top
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - gap
    return places
