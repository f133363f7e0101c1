"""Speed-up over the stock server, measured beside what reading memory alone would allow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlkv.errors import DataError

from ..config import RLKV
from ..plots import COLOURS, FAINT, INK
from .config import FULL
from .figures import Figure


def plot(rows: Sequence[Figure], title: str, path: Path) -> None:
    """Draw bars into a PNG file.

    Raises:
        DataError: the file cannot be written.
    """
    from matplotlib.figure import Figure as Canvas  # here: half a second that only this function needs

    rows = [row for row in rows if row.arm != FULL and row.measured_ratio is not None]
    canvas = Canvas(figsize=(7.2, 1.2 + 0.42 * max(1, len(rows))), layout="constrained")
    axes = canvas.add_subplot()
    names = [f"{row.case}, {row.stretch}\nsparsity {row.arm}" for row in rows]
    places = range(len(rows))[::-1]
    axes.barh(places, [row.measured_ratio or 0 for row in rows], 0.55, color=COLOURS[RLKV], label="measured")
    bounds = [row.theory_ratio or 0 for row in rows]
    axes.plot(bounds, places, "|", color=INK, markersize=16, markeredgewidth=2, label="bound: reading memory")
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_yticks(places, names, fontsize=8)
    axes.set_xlabel("tokens a second, times the stock server's", color=INK)
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    canvas.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    try:
        canvas.savefig(path, dpi=200)
    except OSError as error:
        raise DataError(f"{path}: cannot write: {error.strerror or error}") from error
