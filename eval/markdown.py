"""The terminal's tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table


def markdown(tables: Sequence[Table]) -> str:
    """All tables, each under its title."""
    return "\n".join(_one(table) for table in tables)


def _one(table: Table) -> str:
    headers = [str(column.header) for column in table.columns]
    rules = ["---:" if column.justify == "right" else "---" for column in table.columns]
    rows = zip(*(map(str, column.cells) for column in table.columns), strict=True)
    lines = [headers, rules, *rows]
    return f"### {table.title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)
