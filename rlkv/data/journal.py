"""The journal of a sampling run: what was asked so far, so that a restart continues there.

JSON lines: the run's identity, then a line per problem as its attempt finished, with the problem's number,
from 0, and what came of it, ``null`` where the model failed. A line counts once its line break is written; a
kill loses at most the problems being solved.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from rlkv import atomic
from rlkv.data.buckets import Sample
from rlkv.errors import DataError

Identity = dict[str, Any]
"""Everything that decides which problems are asked and how they are answered; JSON values."""


NUMBER, ATTEMPT = "problem", "attempt"


class Journal:
    """An open journal; a context manager. The file begins with the first append.

    Attributes:
        attempts: of earlier runs and this one by the number of the problem; None where the model failed.

    Raises:
        DataError: the file is of a run with another identity, unreadable, not writable, or in use by another
            process.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        self.identity = identity
        self.attempts: dict[int, Sample | None] = {}
        with _one_line_errors(path):
            self._file: BinaryIO = path.open("a+b", buffering=0)
        try:
            with _one_line_errors(path):
                self._lock()
                self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, attempts: Sequence[tuple[int, Sample | None]]) -> None:
        """Store attempts, each with the number of its problem, on disk, all of them or none.

        Raises:
            DataError: the disk is full or fails; what the file held before is still there.
        """
        lines = [{NUMBER: n, ATTEMPT: None if found is None else asdict(found)} for n, found in attempts]
        header = [] if self._file.tell() else [{"identity": self.identity}]
        with _one_line_errors(self.path):
            text = "".join(json.dumps(line) + "\n" for line in [*header, *lines])
            atomic.append(self._file, text.encode())
        self.attempts.update(attempts)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{self.path}: in use by another process") from error

    def _read(self) -> None:
        """Read all whole lines; a last one without its line break was cut off by a kill and is dropped."""
        self._file.seek(0)
        try:
            whole, end, _ = self._file.read().rpartition(b"\n")
            header, *lines = map(json.loads, whole.split(b"\n")) if end else ({"identity": self.identity},)
            found = header["identity"]
            self.attempts = dict(map(_attempt, lines))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{self.path}: not a journal of rlkv data: {error}") from error
        self._compare(found)
        self._file.truncate(len(whole + end))
        self._file.seek(0, os.SEEK_END)

    def _compare(self, found: Identity) -> None:
        for field, expected in self.identity.items():
            if found.get(field) != expected:
                raise DataError(
                    f"{self.path}: begun with {field} {found.get(field)!r}, now asked for {expected!r}; "
                    "continue with the former or choose another output folder"
                )


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Around work on the file."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror or error}, expected a file that can be read and appended to "
            "(earlier attempts stay as they were)"
        ) from error


def _attempt(line: dict[str, Any]) -> tuple[int, Sample | None]:
    number, found = line[NUMBER], line[ATTEMPT]
    if not isinstance(number, int):
        raise TypeError(f"{NUMBER} is {number!r}, expected a number")
    return number, None if found is None else Sample(**found)
