"""A task whose problems are the rows of a published table: on the hub at a fixed commit, or in a folder."""

from __future__ import annotations

import hashlib
import heapq
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rlkv.data import read_table
from rlkv.errors import DataError

from .base import Example, Task

if TYPE_CHECKING:
    from datasets import Dataset

Row = Mapping[str, Any]

SAMPLES = "samples"
"""In place of a data folder: the handful of problems that ships with each task, written for this project."""

PAPER_MAX_NEW_TOKENS = 8192


class TableTask(Task):
    """A published benchmark.

    Attributes:
        repo: data set on the hub.
        commit: of the data set, None for the newest; either way results carry the commit that was read.
        config: part of the data set, None where it has one.
        columns: that are read.
        hub_splits: the data set's name for each of the task's splits, where it is another.
    """

    levels: ClassVar[tuple[str, ...]] = ("all",)
    default_level: ClassVar[str] = "all"
    splits: ClassVar[tuple[str, ...]] = ("test",)
    repo: ClassVar[str]
    commit: ClassVar[str | None]
    config: ClassVar[str | None] = None
    columns: ClassVar[tuple[str, ...]]
    hub_splits: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def example(self, row: Row) -> Example:
        """The problem of a row."""

    def belongs(self, row: Row, level: str) -> bool:
        """Whether a row is part of a level; all are where a task has no levels in its rows."""
        return True

    def hub_split(self, level: str, split: str) -> str:
        """The split of the data set that holds a level's rows."""
        return self.hub_splits.get(split, split)

    @cached_property
    def revision(self) -> str:
        """Commit on the hub, or digest of the local files."""
        if self.folder is not None:
            return f"sha256:{_digest(self.folder)}"
        return self.commit or _newest_commit(self.repo)

    @cached_property
    def folder(self) -> Path | None:
        """Local data, None for the hub's.

        Raises:
            DataError: a data folder is given and has no sub-folder of this task.
        """
        if self.data_dir is None:
            return None
        shipped = str(self.data_dir) == SAMPLES and not self.data_dir.is_dir()
        folder = (Path(__file__).parent / SAMPLES if shipped else self.data_dir.expanduser()) / self.name
        if not folder.is_dir():
            revision = f" --revision {self.commit}" if self.commit else ""
            copy = f"hf download {self.repo} --repo-type dataset{revision} --local-dir {folder}"
            raise DataError(f"{folder}: no such folder, expected a copy of {self.repo} ({copy})")
        return folder

    def examples(self, level: str, split: str, seed: int, count: int) -> list[Example]:
        # A hash orders alike on every machine, whatever the order of rows, and a larger count only adds.
        problems = (self.example(row) for row in self._rows(level, split))
        return heapq.nsmallest(count, problems, key=lambda example: _place(example.id, seed))

    def default_problems(self, level: str) -> int:
        """All of them."""
        return sum(1 for _ in self._rows(level, "test"))

    def max_new_tokens(self, level: str) -> int:
        return PAPER_MAX_NEW_TOKENS

    def _rows(self, level: str, split: str) -> Iterator[Row]:
        table = self._table(self.hub_split(level, split))
        return (row for row in table if self.belongs(row, level))

    def _table(self, hub_split: str) -> Dataset:
        source = self.repo if self.folder is None else str(self.folder)
        revision = self.revision if self.folder is None else None
        return _read(source, self.columns, revision, hub_split, self.config)


@cache
def _read(
    source: str, columns: tuple[str, ...], revision: str | None, split: str, config: str | None
) -> Dataset:
    return read_table(source, columns, revision, split, config)


def _place(identifier: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {identifier}".encode()).digest()


@cache
def _digest(folder: Path) -> str:
    """SHA-256 over names and contents of the files in a folder; hidden ones are of tools."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            with path.open("rb") as file:
                total.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:16]


@cache
def _newest_commit(repo: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        commit = HfApi().dataset_info(repo).sha
    except (HfHubHTTPError, OSError) as error:
        found = str(error).strip().splitlines()[0].rstrip(".")
        raise DataError(
            f"{repo}: cannot be read from the hub: {found}; expected it there or --data-dir"
        ) from error
    assert commit is not None, "the hub names a commit with every data set"
    return commit
