"""The journal of ``rlkv data`` where its file cannot be opened, read or written."""

from __future__ import annotations

from pathlib import Path

import pytest
from full_disk import disk_with_room_for
from typer.testing import CliRunner

from rlkv.cli.data import app
from rlkv.data import Journal, Sample, Selection, parse_buckets, save_training_data
from rlkv.errors import DataError

IDENTITY = {"model": "m", "seed": 0}
EXPECTED = r"expected a file that can be read and appended to \(earlier attempts stay as they were\)$"


def attempts(begin: int, end: int) -> list[tuple[int, Sample | None]]:
    return [(n, Sample(f"p{n} äß", str(n), 10 + n) if n % 3 else None) for n in range(begin, end)]


def test_a_full_disk_loses_no_earlier_attempt(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path, IDENTITY) as journal:
        journal.append(attempts(0, 4))
        before = path.read_bytes()
        with (
            disk_with_room_for(len(before) + 70),
            pytest.raises(DataError, match=f"^{path}: File too large, {EXPECTED}") as caught,
        ):
            journal.append(attempts(4, 8))
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == before
        assert journal.attempts == dict(attempts(0, 4))
    assert path.read_bytes() == before, "closing writes nothing more"
    with Journal(path, IDENTITY) as journal:
        journal.append(attempts(4, 8))  # there is room again
    with Journal(path, IDENTITY) as journal:
        assert journal.attempts == dict(attempts(0, 8))


def test_a_full_disk_at_the_first_attempt_leaves_an_empty_journal(tmp_path: Path) -> None:
    with (
        disk_with_room_for(10),
        pytest.raises(DataError, match=EXPECTED),
        Journal(tmp_path / "j", IDENTITY) as journal,
    ):
        journal.append(attempts(0, 1))
    with Journal(tmp_path / "j", {"model": "other"}) as journal:
        assert journal.attempts == {}


def test_paths_that_hold_no_journal(tmp_path: Path) -> None:
    for path, found in (
        (Path("/dev/null/x/journal.jsonl"), "Not a directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "none" / "j", "No such file or directory"),
    ):
        with pytest.raises(DataError, match=f"^{path}: {found}, {EXPECTED}"):
            Journal(path, IDENTITY)


def test_the_command_names_the_path_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").mkdir()
    for out, message in (
        ("/dev/null/x", "--out /dev/null/x: cannot be made: Not a directory"),
        (str(tmp_path), f"{tmp_path}/journal.jsonl: Is a directory, expected a file"),
    ):
        with pytest.raises(DataError) as caught:
            CliRunner().invoke(
                app, ["tiny-reasoner", "--source", "tiny", "--out", out], catch_exceptions=False
            )
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)


def test_a_full_disk_keeps_the_earlier_data_set(tmp_path: Path) -> None:
    selection = Selection(parse_buckets("9:0-99"))
    for _, sample in attempts(0, 6):
        selection.add(sample)
    save_training_data(selection, tmp_path, 0, IDENTITY)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with (
        disk_with_room_for(100),
        pytest.raises(DataError, match=f"^{tmp_path}: the data cannot be written: .*, expected room for"),
    ):
        save_training_data(selection, tmp_path, 1, IDENTITY)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
