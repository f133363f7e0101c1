"""How the terminal's tables look."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def empty_table(title: str) -> Table:
    """A table without lines, its title on the left."""
    lines = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    lines.padding = (0, 2, 0, 0)
    return lines


def narrow(table: Table, console: Console, spare: Sequence[str]) -> list[str]:
    """Take columns out of a table until a terminal shows it without breaking lines.

    Args:
        table: changed in place.
        console: of some width.
        spare: names of columns that may go, those to go first in front.

    Returns:
        The names of those that went.
    """
    unlimited = console.options.update(width=1000)
    gone = []
    for name in spare:
        if Measurement.get(console, unlimited, table).maximum <= console.width:
            break
        column = next((column for column in table.columns if column.header == name), None)
        if column is not None:
            table.columns.remove(column)
            gone.append(name)
    return gone
