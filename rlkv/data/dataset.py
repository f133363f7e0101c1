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
from rlkv.grading import MATH

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("prompt", "answer", "response_length", "bucket")
"""The user's text, the right answer, the tokens of the model's response, the index of its bucket.

A column ``grader`` may say how answers are graded (``rlkv.grading.GRADERS``); without it as mathematics.
"""

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

Columns: `prompt` (the user's text), `answer`, `grader` (of the answer), `response_length` (tokens of the
model's response, its end token included), `bucket` (index into the table above).

Made with:

```json
{identity}
```
"""


def save_training_data(
    selection: Selection, folder: Path, seed: int, identity: Mapping[str, Any], grader: str = MATH
) -> Dataset:
    """Write the kept samples in curriculum order, with a card; a kill leaves no half-written data set.

    Args:
        selection: of what was solved.
        folder: exists.
        seed: of the order within a bucket.
        identity: what the data was made with, for the card.
        grader: of all answers (``rlkv.grading.GRADERS``).

    Raises:
        DataError: nothing was kept.
    """
    rows = [
        {
            "prompt": sample.prompt,
            "answer": sample.answer,
            "grader": grader,
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
    (folder / MARKER).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as saving:
        table.save_to_disk(saving)
        for file in sorted(Path(saving).iterdir(), key=lambda file: file.name == MARKER):
            file.replace(folder / file.name)
    atomic.write_text(folder / "README.md", _card(selection, len(rows), identity))
    return load_training_data(str(folder))


def load_training_data(path: str) -> Dataset:
    """Open what ``save_training_data`` wrote, or any local data set with its columns, in training order.

    Raises:
        DataError: no such folder or file, a column missing, or no rows.
    """
    if not Path(path).exists():
        raise DataError(f"{path or 'data'}: no such folder, expected one written by `rlkv data`")
    return read_table(path, COLUMNS)


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
