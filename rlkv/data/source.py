"""Where problems come from: the hub, a file or folder, or the built-in tiny task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from rlkv.errors import DataError, RLKVError
from rlkv.grading import MATH
from rlkv.models import looks_like_path
from rlkv.tiny.problems import generate

if TYPE_CHECKING:
    from datasets import Dataset

BOXED_INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."
"""Stands below a problem whose answer the grader looks for in a box."""

FILE_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


@dataclass(frozen=True)
class Problem:
    """A user's text, the right answer, and which grader it is for (``rlkv.grading.GRADERS``)."""

    prompt: str
    answer: str
    grader: str = MATH


def tiny_problems(levels: Sequence[str], seed: int) -> Iterator[Problem]:
    """Endless training problems of the tiny task, the levels in turn.

    Raises:
        ConfigError: an unknown level.
    """
    for problems in cycle([generate(level, "train", seed) for level in levels]):
        problem = next(problems)
        yield Problem(problem.prompt, problem.answer)


def table_problems(
    table: Dataset,
    problem_column: str,
    answer_column: str,
    instruction: str,
    seed: int,
    grader: str = MATH,
) -> Iterator[Problem]:
    """The problems of a table in random order, ``instruction`` below each."""
    for row in table.shuffle(seed=seed):
        text = str(row[problem_column]).strip()
        prompt = f"{text}\n\n{instruction}" if instruction else text
        yield Problem(prompt, str(row[answer_column]), grader)


def read_table(
    source: str,
    columns: Sequence[str],
    revision: str | None = None,
    split: str = "train",
    config: str | None = None,
) -> Dataset:
    """Open a data set that has the given columns and a row at least.

    Args:
        source: a JSON-lines, CSV or parquet file, a folder of such or of ``save_to_disk``, or a hub id.
        columns: that the caller will read.
        revision: of a data set on the hub.
        split: taken where there are several.
        config: part of a data set that has several; plain files without a card have none.

    Raises:
        DataError: no such data set, config or split, a column missing, or no rows.
        RLKVError: the package ``datasets`` is not installed.
    """
    table = _open(source, revision, split, config)
    for column in columns:
        if column not in table.column_names:
            found = ", ".join(table.column_names)
            raise DataError(f"{source}: no column {column!r}, found {found}")
    if not len(table):
        raise DataError(f"{source}: no rows in split {split!r}")
    return table


def import_datasets() -> ModuleType:
    """The package ``datasets``, which only training and evaluation need."""
    try:
        import datasets
    except ImportError as error:
        raise RLKVError("reading and writing data sets needs datasets: pip install 'rlkv[train]'") from error
    return datasets


def _open(source: str, revision: str | None, split: str, config: str | None) -> Dataset:
    datasets = import_datasets()
    path = Path(source).expanduser()
    if not path.exists() and (looks_like_path(source) or path.suffix in FILE_FORMATS):
        raise DataError(f"{source}: no such file or folder")
    if path.is_file() and not path.stat().st_size:
        raise DataError(f"{source}: the file is empty")
    try:
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(str(path))
            return loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        if path.is_file():
            return datasets.load_dataset(_format(path), data_files=str(path), split="train")
        if path.is_dir():
            return datasets.load_dataset(str(path), _local_config(path, config), split=split)
        return datasets.load_dataset(source, config, revision=revision, split=split)
    except RLKVError:
        raise
    except Exception as error:  # whatever the reader of one of many formats raises
        raise DataError(f"{source}: cannot be read: {_first_line(error)}") from error


def _local_config(folder: Path, config: str | None) -> str | None:
    """The config, or None in a folder of plain files, which ``datasets`` gives one named ``default``."""
    return None if import_datasets().get_dataset_config_names(str(folder)) == ["default"] else config


def _format(path: Path) -> str:
    if path.suffix not in FILE_FORMATS:
        known = ", ".join(FILE_FORMATS)
        raise DataError(f"{path}: found a file ending in {path.suffix or 'nothing'}, expected {known}")
    return FILE_FORMATS[path.suffix]


def _first_line(error: BaseException) -> str:
    """A library's message without its hints; the cause's where the message hides it."""
    shown = error.__cause__ or error
    lines = str(shown).strip().splitlines()
    return f"{type(shown).__name__}: {lines[0]}" if lines else type(shown).__name__
