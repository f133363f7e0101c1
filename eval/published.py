"""Published figures, to stand beside measured ones: a table file that the user points to."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlkv.errors import ConfigError, DataError

COLUMNS = ("model", "bench", "full", "method")
SPARSITY_PREFIX = "sp"

SHORT_NAMES = {"mmluprocs": "mmluprocomputerscience"}
"""Benchmarks whose name in the field is no beginning of a task's label."""


@dataclass(frozen=True)
class Published:
    """One row of the table.

    Attributes:
        model: as the table names it.
        bench: the same.
        full: accuracy with the full cache, in [0, 1].
        method: as the table names it.
        accuracy: by sparsity, in [0, 1].
    """

    model: str
    bench: str
    full: float
    method: str
    accuracy: dict[float, float]

    def is_of(self, label: str) -> bool:
        """Whether the row's benchmark is the task of that label: ``MATH500`` is ``math_500``."""
        bench = _plain(self.bench)
        return _plain(label).startswith(SHORT_NAMES.get(bench, bench))


def read_published(path: Path) -> list[Published]:
    """Rows of a tab-separated file with the columns model, bench, full, method, and sp0.2, sp0.4, ...

    Accuracies are in percent.

    Raises:
        DataError: the file cannot be read, lacks a column, or has something else than a number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}") from error
    reader = csv.DictReader(lines, delimiter="\t")
    header = reader.fieldnames or []
    levels = [name for name in header if name.startswith(SPARSITY_PREFIX)]
    missing = [name for name in COLUMNS if name not in header] or ([] if levels else ["sp0.5 or the like"])
    if missing:
        raise DataError(
            f"{path}: line 1 has no column {missing[0]}, expected model, bench, full, method, sp…"
        )
    return [_row(path, number, row, levels) for number, row in enumerate(reader, start=2)]


def of_task(rows: Sequence[Published], label: str) -> list[Published]:
    """The rows of one task."""
    return [row for row in rows if row.is_of(label)]


def model_to_draw(rows: Sequence[Published], asked: str | None, measured: str) -> str | None:
    """The model whose figures are drawn beside measured ones: no curve may mix models.

    Args:
        rows: of the whole table.
        asked: name in the table, None to choose: the only model, or else the measured one by name.
        measured: name or folder of the model that was evaluated.

    Returns:
        Its name in the table; None if there are several and none has the measured one's name.

    Raises:
        ConfigError: the table lacks the model that was asked for.
    """
    models = list(dict.fromkeys(row.model for row in rows))
    if asked is not None and asked not in models:
        raise ConfigError(f"published_model is {asked!r}, expected one of {', '.join(models)}")
    if asked is not None or len(models) == 1:
        return asked or models[0]
    return next((model for model in models if _plain(model) == _plain(Path(measured).name)), None)


def beside(
    rows: Sequence[Published], label: str, model: str | None, methods: Iterable[str]
) -> list[Published]:
    """The rows of one task and model whose method took part, under the name that it has in the run.

    Names are equal if their letters and digits are: ``DuoAttention`` is ``duo-attention``.
    """
    names = {_plain(method): method for method in methods}
    return [
        replace(row, method=names[_plain(row.method)])
        for row in of_task(rows, label)
        if row.model == model and _plain(row.method) in names
    ]


def _row(path: Path, number: int, row: dict[str, str], levels: list[str]) -> Published:
    try:
        accuracy = {
            float(name.removeprefix(SPARSITY_PREFIX)): float(row[name]) / 100 for name in levels if row[name]
        }
        return Published(row["model"], row["bench"], float(row["full"]) / 100, row["method"], accuracy)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: line {number}: {error}, expected accuracies in percent") from error


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
