"""How the terminal's tables look."""

from __future__ import annotations

from rich.table import Table


def empty_table(title: str) -> Table:
    """A table without lines, its title on the left."""
    lines = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    lines.padding = (0, 2, 0, 0)
    return lines
