"""Read the plain TSV files in which gates were published before heads.json.

``adapter_weights.tsv`` and ``full_attention_heads.tsv`` have one format: a row per layer, a column per
KV head, tab-separated. Their values come straight from an optimiser, so some lie a little outside
[0, 1] and are clipped.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from rlkv.errors import HeadsFileError
from rlkv.heads.fields import Gates

CLIP_TOLERANCE = 0.05
"""How far outside [0, 1] a value may lie and still be clipped. Published files stray by up to 0.011."""


def read_tsv(path: str | PathLike[str]) -> Gates:
    """Gates ``[num_layers][num_kv_heads]`` of a TSV file, clipped to [0, 1].

    Raises:
        HeadsFileError: one line that names the file, the line and the column (both from 1), what was
            found and what was expected.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise HeadsFileError(f"{path}: cannot read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise HeadsFileError(f"{path}: is not text: {error}") from error
    if not text.strip():
        raise HeadsFileError(f"{path}: is empty, expected a row per layer")
    rows = [
        tuple(_gate(f"{path}:{line}:{column}", cell) for column, cell in enumerate(row.split("\t"), start=1))
        for line, row in enumerate(text.rstrip("\n").split("\n"), start=1)
    ]
    for line, values in enumerate(rows, start=1):
        if len(values) != len(rows[0]):
            raise HeadsFileError(
                f"{path}:{line}: has {len(values)} columns, expected {len(rows[0])} as in line 1"
            )
    return tuple(rows)


def _gate(place: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise HeadsFileError(f"{place}: found {cell[:40]!r}, expected a number") from None
    if not -CLIP_TOLERANCE <= value <= 1 + CLIP_TOLERANCE:  # NaN fails every comparison
        raise HeadsFileError(
            f"{place}: found {cell.strip()}, expected a number in [0, 1] up to {CLIP_TOLERANCE}"
        )
    return min(1.0, max(0.0, value))
