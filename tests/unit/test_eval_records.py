"""The journal of answers: what survives a kill, a full disk, a foreign file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from full_disk import disk_with_room_for
from rlkv_eval.records import Sample, open_journal, read_journal

from rlkv.errors import DataError

IDENTITY: dict[str, Any] = {"settings": {"model": "m"}, "cache": "full"}


def samples(begin: int, end: int, text: str = "x") -> list[Sample]:
    return [
        Sample(i, f"id{i}", text, "7", True, "equal", 9, 3, "stop", False, None, 1024.5, 900.5, 33)
        for i in range(begin, end)
    ]


def fill(path: Path, *sizes: int) -> None:
    with open_journal(path, IDENTITY, 10, unit=4) as journal:
        for size in sizes:
            begin = len(journal.samples)
            journal.append(samples(begin, begin + size))


def test_single_answers_may_come_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with open_journal(path, IDENTITY, 10, unit=1) as journal:
        journal.append([*samples(7, 9), *samples(2, 3)])
    with path.open("a") as file:
        file.write('{"index": 4, "id": "cut o')
    with open_journal(path, IDENTITY, 10, unit=1) as journal:
        assert [sample.index for sample in journal.samples] == [7, 8, 2]
        journal.append(samples(0, 2))
    assert [sample.index for sample in read_journal(path)[1]] == [0, 1, 2, 7, 8]
    expected = "answers are not in order, expected whole batches"
    with pytest.raises(DataError, match=expected), open_journal(path, IDENTITY, 10, unit=4):
        pass


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    fill(path, 4, 4, 2)
    assert read_journal(path) == (IDENTITY, samples(0, 10))
    with open_journal(path, IDENTITY, 10, 4) as journal:
        assert journal.samples == samples(0, 10)


@pytest.mark.parametrize("cut", range(0, 1000, 37))
def test_resumes_at_a_batch_wherever_a_kill_cut(tmp_path: Path, cut: int) -> None:
    whole, path = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    fill(whole, 4, 4, 2)
    data = whole.read_bytes()
    path.write_bytes(data[: max(0, len(data) - cut)])
    complete_lines = path.read_bytes().count(b"\n") - 1
    with open_journal(path, IDENTITY, 10, 4) as journal:
        kept = len(journal.samples)
        assert kept == (10 if complete_lines == 10 else max(0, complete_lines // 4 * 4))
        for begin in range(kept, 10, 4):
            journal.append(samples(begin, min(begin + 4, 10)))
    assert path.read_bytes() == data


FULL_DISK = r"a\.jsonl: cannot write: .* \(earlier results stay as they were\)$"


def test_a_full_disk_leaves_earlier_answers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    fill(path, 4)
    before = path.read_bytes()
    with open_journal(path, IDENTITY, 10, 4) as journal:
        with disk_with_room_for(len(before) + 100), pytest.raises(DataError, match=FULL_DISK) as caught:
            journal.append(samples(4, 8))
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == before
        journal.append(samples(4, 8))  # there is room again
    assert read_journal(path)[1] == samples(0, 8)


def test_a_full_disk_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with (
        disk_with_room_for(10),
        pytest.raises(DataError, match=FULL_DISK),
        open_journal(path, IDENTITY, 10, 4),
    ):
        pass
    fill(path, 4)
    assert read_journal(path)[1] == samples(0, 4)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with (
        open_journal(path, IDENTITY, 10, 4),
        pytest.raises(DataError, match="another run is writing"),
        open_journal(path, IDENTITY, 10, 4),
    ):
        pass


def test_another_identity_is_never_reused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    fill(path, 4)
    other = {**IDENTITY, "cache": "hybrid"}
    with (
        pytest.raises(DataError, match="holds the result of other settings"),
        open_journal(path, other, 10, 4),
    ):
        pass


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "line 3 is no answer"),
        ('{"index": 1}', "line 3 is no answer"),
        (json.dumps(vars(samples(0, 1)[0])), "line 3 answers 0 once more"),
    ],
)
def test_damage_in_the_middle_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    fill(path, 4)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[3:]]) + "\n")
    with pytest.raises(DataError, match=message):
        read_journal(path)


@pytest.mark.parametrize("content", ["", '{"identity": {"sett'])
def test_a_file_whose_header_was_never_finished_has_not_begun(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    assert read_journal(path) == ({}, [])
    fill(path, 4)
    assert read_journal(path) == (IDENTITY, samples(0, 4))


def test_lone_surrogates_are_spelt_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    (plain,) = samples(0, 1, "größer 😀")
    odd = replace(plain, text="größer 😀 \udfff", extracted="\ud800", reason="ValueError: \ud800")
    spelt = replace(plain, text="größer 😀 \\udfff", extracted="\\ud800", reason="ValueError: \\ud800")
    with open_journal(path, IDENTITY, 10, unit=1) as journal:
        journal.append([odd])
        assert journal.samples == [spelt]
    assert read_journal(path) == (IDENTITY, [spelt])


def test_files_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n")
    with pytest.raises(DataError, match="line 1 is no header"):
        read_journal(path)
    with pytest.raises(DataError, match="cannot read"):
        read_journal(tmp_path / "missing.jsonl")
