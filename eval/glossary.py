"""What the columns of a report say: one definition for the terminal, Markdown and the page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from .tables import empty_table

MEANINGS = {
    "method": "full is the stock cache, all others save memory",
    "budget": "share that the method may hold of the KV bytes that the full cache holds for the same tokens",
    "sparsity": "share of KV heads that stream; none of them where a method drops tokens",
    "accuracy": "share of right answers; of several random draws, their mean",
    "95% interval": "Wilson's; of several random draws, the lowest and the highest accuracy; while "
    "unfinished, of the problems answered so far, from a server those of short answers",
    "std. error": "standard error of the accuracy",
    "failures": "how the wrong answers fail",
    "length": "tokens of an answer, mean",
    "median": "tokens of an answer, median",
    "repetitive": "share of answers that are wrong and repeat themselves",
    "overlong": "share of other wrong answers, cut off at the token limit",
    "incorrect": "share of all other wrong answers; the three and the accuracy make 100%",
    "unparsed": "share of answers in which the grader found nothing to compare; wrong, so counted above, too",
    "KV KiB": "most keys and values that an answer held at any step, mean",
    "KV of full": "the same as a share of what the full cache holds for the same tokens",
    "gained / lost": "problems that the method, or full, solves more often than the other",
    "p vs full": "chance of gains and losses as uneven as these if the method were as good as full",
}
"""By the column's name."""


def glossary(columns: Sequence[str]) -> Table:
    """A table of what some columns mean.

    Args:
        columns: names, in the order of the lines.
    """
    lines = empty_table("Columns")
    lines.add_column("column", no_wrap=True)
    lines.add_column("meaning")
    for name in columns:
        lines.add_row(name, MEANINGS[name])
    return lines
