"""The training set on disk: a folder of ``datasets`` with a card."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkv import atomic
from rlkv.data.buckets import Selection
from rlkv.data.source import import_datasets, read_table
from rlkv.errors import DataError
from rlkv.grading import GRADERS, MATH

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("prompt", "answer", "response_length", "bucket")
"""The user's text, the right answer, the tokens of the model's response, the index of its bucket.

A column ``grader`` may say how answers are graded (``rlkv.grading.GRADERS``); without it as mathematics. A
column ``thinking`` may say that the answer does not stand after ``</think>``; without it, it does.
"""

GRADING_COLUMNS = ("answer", "grader", "thinking")
"""What a reward is computed from, besides the response."""

MARKER = "state.json"
"""The file without which ``datasets`` does not take a folder for a data set; it comes last."""

CARD = """\
---
pretty_name: RLKV training data
tags:
- rlkv
configs:
- config_name: default
  data_files: data-*.arrow
---

# RLKV training data

{rows} problems that a model solved itself, greedily, in training order: short responses first, shuffled
within each bucket. Made by `rlkv data`; the model's responses are not kept. The problems stay under the
licence of their source.

| bucket | response tokens | wanted | kept |
| ---: | --- | ---: | ---: |
{buckets}

The model was asked {asked} problems and solved {solved}, a share of {share:.1%}.

Columns: `prompt` (the user's text), `answer`, `grader` (of the answer), `thinking` (whether the answer has to
stand after `</think>`), `response_length` (tokens of the model's response, its end token included), `bucket`
(index into the table above).

Made with:

```json
{identity}
```
"""


def save_training_data(
    selection: Selection,
    folder: Path,
    seed: int,
    identity: Mapping[str, Any],
    *,
    grader: str = MATH,
    thinking: bool = True,
) -> Dataset:
    """Write the kept samples in curriculum order, with a card; a kill leaves no half-written data set.

    Args:
        selection: of what was solved.
        folder: exists.
        seed: of the order within a bucket.
        identity: what the data was made with, for the card.
        grader: of all answers (``rlkv.grading.GRADERS``).
        thinking: whether answers have to stand after ``</think>`` (``rlkv.grading.grade``).

    Raises:
        DataError: nothing was kept, or the folder cannot be written.
    """
    rows = [
        {
            "prompt": sample.prompt,
            "answer": sample.answer,
            "grader": grader,
            "thinking": thinking,
            "response_length": sample.response_length,
            "bucket": bucket,
        }
        for bucket, sample in selection.curriculum(seed)
    ]
    if not rows:
        raise DataError(
            f"{folder}: nothing to save: of {selection.asked} problems asked, {selection.solved} were solved "
            "and none fell into a bucket"
        )
    table = import_datasets().Dataset.from_list(rows)
    try:
        _replace(table, folder)
        atomic.write_text(folder / "README.md", _card(selection, len(rows), identity))
    except OSError as error:
        raise DataError(
            f"{folder}: the data cannot be written: {error.strerror or error}, "
            f"expected room for {len(rows)} rows; "
            "what was solved is in the journal"
        ) from error
    return load_training_data(str(folder))


def _replace(table: Dataset, folder: Path) -> None:
    """Put a new data set in the place of what the folder has; at no time is there half of one."""
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as saving:
        table.save_to_disk(saving)
        (folder / MARKER).unlink(missing_ok=True)
        for file in sorted(Path(saving).iterdir(), key=lambda file: file.name == MARKER):
            file.replace(folder / file.name)


def load_training_data(path: str) -> Dataset:
    """Open what ``save_training_data`` wrote, or any local data set with its columns, in training order.

    Raises:
        DataError: no such folder or file, a column missing or of another kind, an empty cell, an unknown
            grader, or no rows.
    """
    if not path:
        raise DataError("--data: not given, expected a folder written by `rlkv data`")
    if not Path(path).exists():
        raise DataError(f"{path}: no such folder, expected one written by `rlkv data`")
    table = read_table(path, COLUMNS)
    for column in ("prompt", "answer"):
        table = _as_text(table, path, column)
    for column, allowed in (("grader", tuple(GRADERS)), ("thinking", (True, False))):
        unknown = set(table.unique(column)) - set(allowed) if column in table.column_names else set()
        if unknown:
            found, expected = sorted(map(repr, unknown))[0], ", ".join(map(str, allowed))
            raise DataError(f"{path}: {column} is {found} in a row, expected one of {expected}")
    return table


def conversations(data: Dataset, column: str) -> Dataset:
    """What trainers read: the prompt as messages, for the chat template, and what the reward needs.

    Args:
        data: of ``load_training_data``.
        column: the name that the trainer has for the messages.
    """
    messages = [[{"role": "user", "content": text}] for text in data["prompt"]]
    columns = {name: data[name] for name in GRADING_COLUMNS if name in data.column_names}
    return import_datasets().Dataset.from_dict({column: messages, **columns})


def _as_text(table: Dataset, path: str, column: str) -> Dataset:
    """Numbers become text, as graders take it."""
    kind = getattr(table.features[column], "dtype", "a list")
    if not kind.startswith(("string", "large_string", "int", "uint", "float")):
        raise DataError(f"{path}: column {column} holds {kind}, expected text or numbers")
    if kind != "string":
        text = {**table.features, column: import_datasets().Value("string")}
        # In memory: the folder may be read-only, and datasets would leave files in it.
        table = table.cast(import_datasets().Features(text), keep_in_memory=True)
    for row, value in enumerate(table[column]):
        if not value:
            raise DataError(f"{path}: row {row} has no {column}, expected one in every row")
    return table


def _card(selection: Selection, rows: int, identity: Mapping[str, Any]) -> str:
    buckets = [
        f"| {index} | {bucket.min_tokens + 1} to {bucket.max_tokens} | {bucket.count} | {len(kept)} |"
        for index, (bucket, kept) in enumerate(zip(selection.buckets, selection.kept, strict=True))
    ]
    return CARD.format(
        rows=rows,
        buckets="\n".join(buckets),
        asked=selection.asked,
        solved=selection.solved,
        share=selection.solved / max(selection.asked, 1),
        identity=json.dumps(identity, indent=2),
    )
