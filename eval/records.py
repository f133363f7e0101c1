"""Results on disk: a header line with the identity, then a line per answer, appended a batch at a time."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from rlkv import atomic
from rlkv.errors import DataError


@dataclass(frozen=True)
class Sample:
    """One graded answer.

    Attributes:
        index: position in the run; the answers to one problem follow each other.
        id: the problem's own.
        text: the model's answer.
        extracted: what the grader took for the answer, None where it found none.
        correct: the verdict.
        reason: why, in the grader's words.
        prompt_length: tokens of the prompt.
        length: new tokens, the end-of-sequence token included.
        finish_reason: ``stop``, or ``length`` at the token limit.
        repetitive: by the task's definition.
        seed: of its sampling, None where greedy.
        kv_bytes: most bytes of keys and values held for it at any step (``Answer.kv_bytes``).
        kv_mean_bytes: the same, its mean over the steps.
        cached_tokens: tokens of its sequence, the last one left out.
    """

    index: int
    id: str
    text: str
    extracted: str | None
    correct: bool
    reason: str
    prompt_length: int
    length: int
    finish_reason: str
    repetitive: bool
    seed: int | None
    kv_bytes: float
    kv_mean_bytes: float
    cached_tokens: int


class Journal:
    """The file of one method at one sparsity, open for appending; made by ``open_journal``.

    Attributes:
        samples: all that the file holds, in its order.
    """

    def __init__(self, path: Path, file: BinaryIO, samples: list[Sample]) -> None:
        self.path = path
        self.samples = samples
        self._file = file

    def append(self, batch: Sequence[Sample]) -> None:
        """Bring a batch to disk, whole or not at all.

        Raises:
            DataError: the disk is full or fails; what the file held before is still there.
        """
        kept = [_storable(sample) for sample in batch]
        _write_lines(self.path, self._file, [asdict(sample) for sample in kept])
        self.samples.extend(kept)


@contextmanager
def open_journal(path: Path, identity: dict[str, Any], count: int, unit: int) -> Iterator[Journal]:
    """Open a result file to go on where it ends, or begin it.

    A line that a kill cut off is dropped. So is a unit that is not whole: cache bytes and sampling belong to
    a batch of answers, so it is answered again as a whole.

    Args:
        path: of the file.
        identity: of the result; the file must have begun with the same.
        count: answers of the finished file.
        unit: answers that belong together (``Answerer.unit``).

    Raises:
        DataError: the file holds another result, is damaged, is in use, or cannot be written.
    """
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
    except OSError as error:
        raise _cannot_write(path, error) from error
    with file:
        _lock(path, file)
        lines = file.read().split(b"\n")[:-1]  # what follows the last line break was cut off by a kill
        if not lines:
            file.truncate(0)
            file.seek(0)
            _write_lines(path, file, [{"identity": identity}])
            yield Journal(path, file, [])
            return
        header, samples = _parse(path, lines)
        if header != identity:
            raise DataError(f"{path}: holds the result of other settings, expected those of its name")
        if unit > 1 and [sample.index for sample in samples] != list(range(len(samples))):
            raise DataError(f"{path}: answers are not in order, expected whole batches; delete the file")
        if len(samples) < count:
            samples = samples[: len(samples) // unit * unit]
        end = sum(len(line) + 1 for line in lines[: 1 + len(samples)])
        if file.seek(0, os.SEEK_END) != end:  # a finished file is left untouched
            file.truncate(end)
            file.seek(end)
        yield Journal(path, file, samples)


def read_journal(path: Path) -> tuple[dict[str, Any], list[Sample]]:
    """Identity and answers of a result file, in the problems' order; a cut-off last line does not count.

    Returns:
        Both empty where the header is not whole: the result was listed, but has not begun.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
    if not lines:
        return {}, []
    header, samples = _parse(path, lines)
    return header, sorted(samples, key=lambda sample: sample.index)


def _parse(path: Path, lines: list[bytes]) -> tuple[dict[str, Any], list[Sample]]:
    try:
        header = json.loads(lines[0])["identity"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: line 1 is no header, expected the identity of the result") from error
    samples: dict[int, Sample] = {}
    for number, line in enumerate(lines[1:], start=2):
        sample = _sample(path, number, line)
        if samples.setdefault(sample.index, sample) is not sample:
            raise DataError(f"{path}: line {number} answers {sample.index} once more; delete the file")
    return header, list(samples.values())


def _sample(path: Path, number: int, line: bytes) -> Sample:
    try:
        return Sample(**json.loads(line.decode()))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: line {number} is no answer ({error}); delete the file") from error


def _storable(sample: Sample) -> Sample:
    r"""The sample with lone surrogates, which have no bytes in UTF-8, spelt out as ``\ud800``.

    A model's code can raise an error whose message holds one.
    """

    def spelt(text: str) -> str:
        return text.encode(errors="backslashreplace").decode()

    extracted = None if sample.extracted is None else spelt(sample.extracted)
    return replace(sample, text=spelt(sample.text), extracted=extracted, reason=spelt(sample.reason))


def _lock(path: Path, file: BinaryIO) -> None:
    """Two runs that append to one file would spoil it; the lock goes with the process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise DataError(f"{path}: another run is writing it, expected one run a folder at a time") from error


def _write_lines(path: Path, file: BinaryIO, rows: list[dict[str, Any]]) -> None:
    """Append at the file's position; on failure the file is as it was."""
    data = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
    try:
        atomic.append(file, data)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot write: {error.strerror or error} (earlier results stay as they were)")
