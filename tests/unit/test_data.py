from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from rlkv.data import (
    PAPER_BUCKETS,
    Bucket,
    Journal,
    Problem,
    Sample,
    Selection,
    collect,
    load_training_data,
    parse_buckets,
    read_table,
    save_training_data,
    table_problems,
    tiny_problems,
)
from rlkv.data.sampling import Attempts
from rlkv.errors import ConfigError, DataError, RLKVError
from rlkv.models import MODELS_FOLDER, resolve_model

IDENTITY = {"model": "m", "seed": 0}


def sample(length: int, name: str = "p") -> Sample:
    return Sample(name, "1", length)


def selection_of(text: str, lengths: Sequence[int | None]) -> Selection:
    selection = Selection(parse_buckets(text))
    for number, length in enumerate(lengths):
        selection.add(None if length is None else sample(length, f"p{number}"))
    return selection


def problems() -> Iterator[Problem]:
    """p0, p1, ... without end."""
    number = 0
    while True:
        yield Problem(f"p{number}", str(number))
        number += 1


class StubSolver:
    """Solves all but every third problem; the response to p<n> has 10 + n tokens.

    Two problems are under way at a time, and the later one is done first.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, numbered: Iterator[tuple[int, Problem]]) -> Attempts:
        while batch := list(islice(numbered, 2)):
            self.asked += [p.prompt for _, p in batch]
            for number, p in reversed(batch):
                solved = int(p.answer) % 3 > 0
                yield [(number, Sample(p.prompt, p.answer, 10 + int(p.answer)) if solved else None)]


def test_paper_buckets() -> None:
    assert [bucket.count for bucket in PAPER_BUCKETS] == [600, 600, 1000, 800]
    assert ",".join(map(str, PAPER_BUCKETS)) == "600:0-2048,600:2048-4096,1000:4096-6144,800:6144-8192"


def test_bucket_bounds() -> None:
    bucket = Bucket(1, 80, 140)
    assert [bucket.holds(n) for n in (80, 81, 140, 141)] == [False, True, True, False]


def test_parse_buckets() -> None:
    assert parse_buckets("80:0-80, 120:100-140") == (Bucket(80, 0, 80), Bucket(120, 100, 140))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found ''"),
        ("80", "found '80'"),
        ("80:0-80,", "found ''"),
        ("80:0-80;9:80-90", "found '80:0-80;9:80-90'"),
        ("-1:0-80", "found '-1:0-80'"),
        ("0:0-80", "COUNT at least 1"),
        ("5:80-80", "MIN below MAX"),
        ("5:0-80,5:79-90", "do not overlap"),
        ("5:80-90,5:0-80", "ascend"),
    ],
)
def test_bad_buckets(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_buckets(text)
    assert "\n" not in str(caught.value)


def test_selection_takes_the_first_of_each_length() -> None:
    selection = selection_of("2:0-10,1:10-20", [5, None, 10, 3, 25, 11])
    assert [[s.prompt for s in kept] for kept in selection.kept] == [["p0", "p2"], ["p5"]]
    assert (selection.asked, selection.solved, selection.full) == (6, 5, True)


def test_curriculum_is_ascending_and_shuffled_within_buckets() -> None:
    selection = selection_of(
        "20:0-10,20:10-20", [n for pair in zip([15] * 20, [5] * 20, strict=True) for n in pair]
    )
    order = selection.curriculum(seed=0)
    assert [bucket for bucket, _ in order] == [0] * 20 + [1] * 20
    names = [s.prompt for _, s in order[:20]]
    came = [s.prompt for s in selection.kept[0]]
    assert sorted(names) == sorted(came)
    assert names != came
    assert order == selection.curriculum(seed=0)
    assert order != selection.curriculum(seed=1)


def test_collect_stops_when_full(tmp_path: Path) -> None:
    solve, selection = StubSolver(), Selection(parse_buckets("3:10-100"))
    with Journal(tmp_path / "j", IDENTITY) as journal:
        collect(problems(), solve, journal, selection)
    assert solve.asked == ["p0", "p1", "p2", "p3", "p4", "p5"]  # p0 and p3 fail; p5 comes with p4
    assert [s.prompt for s in selection.kept[0]] == ["p1", "p2", "p4"]


def test_collect_stops_at_max_problems_and_at_the_end(tmp_path: Path) -> None:
    for source, most in ((problems(), 5), (islice(problems(), 5), None)):
        solve, selection = StubSolver(), Selection(parse_buckets("30:10-100"))
        with Journal(tmp_path / f"j{most}", IDENTITY) as journal:
            collect(source, solve, journal, selection, max_problems=most)
        assert solve.asked == [f"p{n}" for n in range(5)]
        assert not selection.full


def run(path: Path, most: int | None) -> tuple[StubSolver, Selection]:
    solve, selection = StubSolver(), Selection(parse_buckets("6:10-100"))
    with Journal(path, IDENTITY) as journal:
        collect(problems(), solve, journal, selection, max_problems=most)
    return solve, selection


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_resume_after_a_kill(tmp_path: Path, cut: int) -> None:
    """Cut bytes off the journal: the result is that of a run that was never stopped."""
    _, expected = run(tmp_path / "whole", None)
    run(tmp_path / "cut", 4)
    content = (tmp_path / "cut").read_bytes()
    (tmp_path / "cut").write_bytes(content[:-cut])
    whole_lines = content[:-cut].count(b"\n")
    solve, selection = run(tmp_path / "cut", None)
    order = ["p1", "p0", "p3", "p2"]  # as they finished; the first line is the identity
    kept = order[: whole_lines - 1]
    assert not set(kept) & set(solve.asked), "nothing is asked twice"
    assert set(order) - set(kept) <= set(solve.asked), "nothing is left out"
    assert selection.kept == expected.kept
    numbers = [json.loads(line)["problem"] for line in (tmp_path / "cut").read_text().splitlines()[1:]]
    assert len(set(numbers)) == len(numbers)


def test_resume_of_a_full_run_asks_nothing(tmp_path: Path) -> None:
    _, first = run(tmp_path / "j", None)
    solve, second = run(tmp_path / "j", None)
    assert solve.asked == []
    assert second.kept == first.kept


def test_resume_after_a_kill_within_the_header(tmp_path: Path) -> None:
    (tmp_path / "j").write_text('{"identity": {"mod')
    solve, _ = run(tmp_path / "j", 2)
    assert solve.asked == ["p0", "p1"]
    assert json.loads((tmp_path / "j").read_text().splitlines()[0]) == {"identity": IDENTITY}


def test_journal_of_another_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    run(tmp_path / "j", 2)
    content = (tmp_path / "j").read_bytes() + b'{"partial'
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(DataError, match="begun with seed 0, now asked for 1"):
        Journal(tmp_path / "j", {"model": "m", "seed": 1})
    assert (tmp_path / "j").read_bytes() == content


def test_journal_without_an_attempt_leaves_no_identity(tmp_path: Path) -> None:
    Journal(tmp_path / "j", IDENTITY).__exit__(None, None, None)
    with Journal(tmp_path / "j", {"model": "other"}) as journal:
        assert journal.attempts == {}


@pytest.mark.parametrize(
    "content", [b"hello\n", b"[]\n", b'{"identity": {}}\n{"x": 1}\n', b"\xff\xfe\n", b"{}\n"]
)
def test_foreign_journal(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(DataError, match="not a journal"):
        Journal(tmp_path / "j", IDENTITY)
    assert (tmp_path / "j").read_bytes() == content


def test_journal_in_use(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", IDENTITY), pytest.raises(DataError, match="in use by another process"):
        Journal(tmp_path / "j", IDENTITY)


def test_training_data_round_trip(tmp_path: Path) -> None:
    selection = selection_of("2:0-10,2:10-20", [15, 5, None, 16, 6])
    save_training_data(selection, tmp_path, 0, IDENTITY)
    table = load_training_data(str(tmp_path))
    assert table.column_names == ["prompt", "answer", "grader", "thinking", "response_length", "bucket"]
    assert set(table["grader"]) == {"math"}
    assert table["bucket"] == [0, 0, 1, 1]
    assert sorted(table["response_length"]) == [5, 6, 15, 16]
    assert max(table["response_length"][:2]) == 6
    card = (tmp_path / "README.md").read_text()
    assert "asked 5 problems and solved 4, a share of 80.0%" in card
    assert "| 1 | 11 to 20 | 2 | 2 |" in card
    save_training_data(selection_of("2:0-10", [7]), tmp_path, 0, IDENTITY)  # and over an earlier one
    assert load_training_data(str(tmp_path))["response_length"] == [7]


def test_nothing_solved(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="of 2 problems asked, 0 were solved"):
        save_training_data(selection_of("2:0-10", [None, None]), tmp_path, 0, IDENTITY)


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_training_data_is_validated(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "t.jsonl", [{"prompt": "p", "answer": "1"}])
    with pytest.raises(DataError, match="no column 'response_length', found prompt, answer"):
        load_training_data(str(path))
    with pytest.raises(DataError, match="no such folder, expected one written by `rlkv data`"):
        load_training_data(str(tmp_path / "missing"))


def test_numbers_are_taken_as_text(tmp_path: Path) -> None:
    rows = [{"prompt": "6 * 7?", "answer": n, "response_length": 3, "bucket": 0} for n in (42, 7)]
    file = write_rows(tmp_path / "numbers.jsonl", rows)
    assert load_training_data(str(file))["answer"] == ["42", "7"]
    saved = tmp_path / "saved"
    Dataset.from_list(rows).save_to_disk(str(saved))
    before = sorted(saved.iterdir())
    assert load_training_data(str(saved))["answer"] == ["42", "7"]
    assert sorted(saved.iterdir()) == before  # nothing is left in a folder that is only read


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"answer": None}, "row 1 has no answer, expected one in every row"),
        ({"prompt": ""}, "row 1 has no prompt, expected one in every row"),
        ({"grader": "art"}, "grader is 'art' in a row, expected one of math, letter, code"),
        ({"thinking": None}, "thinking is None in a row, expected one of True, False"),
    ],
)
def test_a_bad_row_is_refused_before_training(tmp_path: Path, changed: dict[str, Any], expected: str) -> None:
    good = {
        "prompt": "6?",
        "answer": "6",
        "response_length": 3,
        "bucket": 0,
        "grader": "math",
        "thinking": True,
    }
    file = write_rows(tmp_path / "rows.jsonl", [good, {**good, **changed}])
    with pytest.raises(DataError, match=expected):
        load_training_data(str(file))


def test_a_column_of_lists_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "6?", "answer": ["6"], "response_length": 3, "bucket": 0}]
    with pytest.raises(DataError, match=r"column answer holds .*, expected text or numbers"):
        load_training_data(str(write_rows(tmp_path / "lists.jsonl", rows)))


def test_sources(tmp_path: Path) -> None:
    rows = [{"problem": f" What is {n}? ", "answer": n} for n in range(6)]
    (tmp_path / "folder").mkdir()
    path = write_rows(tmp_path / "folder" / "train.jsonl", rows)
    table = read_table(str(path), ("problem", "answer"))
    table.to_parquet(tmp_path / "t.parquet")
    table.save_to_disk(tmp_path / "saved")
    for source in (path, path.parent, tmp_path / "t.parquet", tmp_path / "saved"):
        table = read_table(str(source), ("problem", "answer"))
        found = list(table_problems(table, "problem", "answer", "Think.", seed=0))
        assert sorted(p.answer for p in found) == ["0", "1", "2", "3", "4", "5"]
        assert all(p.prompt == f"What is {p.answer}?\n\nThink." for p in found)
        assert found == list(table_problems(table, "problem", "answer", "Think.", seed=0))
        assert found != list(table_problems(table, "problem", "answer", "Think.", seed=1))


def test_source_errors(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    broken = tmp_path / "broken.parquet"
    broken.write_text("hello")
    good = write_rows(tmp_path / "good.jsonl", [{"problem": "p", "solution": "s"}])
    (tmp_path / "hollow").mkdir()
    cases = [
        ("./missing", "no such file or folder"),
        ("missing.jsonl", "no such file or folder"),
        (str(empty), "empty.jsonl: the file is empty"),
        (str(text), "found a file ending in .txt, expected .jsonl"),
        (str(broken), "cannot be read: "),
        (str(good), "no column 'answer', found problem, solution"),
        (str(tmp_path / "hollow"), "hollow: cannot be read: "),
    ]
    for source, message in cases:
        with pytest.raises(DataError, match=message) as caught:
            read_table(source, ("problem", "answer"))
        assert "\n" not in str(caught.value)


def test_empty_table(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "t.jsonl", [{"problem": "p", "answer": "1"}])
    read_table(str(path), ()).select([]).save_to_disk(tmp_path / "none")
    with pytest.raises(DataError, match=r"none: (no rows|cannot be read)"):
        read_table(str(tmp_path / "none"), ("problem", "answer"))


def test_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(RLKVError, match=r"pip install 'rlkv\[train\]'"):
        read_table(str(tmp_path), ())


def test_tiny_problems_take_levels_in_turn() -> None:
    found = list(islice(tiny_problems(["easy", "medium"], seed=3), 4))
    assert [p.prompt.count("\n- ") for p in found] == [10, 24, 10, 24]  # definitions of each level
    assert found == list(islice(tiny_problems(["easy", "medium"], seed=3), 4))
    with pytest.raises(ConfigError, match="level"):
        next(tiny_problems(["huge"], seed=0))


def test_resolve_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_model("tiny-reasoner") == str(MODELS_FOLDER / "tiny-reasoner")
    assert resolve_model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert resolve_model("gpt2") == "gpt2"
    assert resolve_model(str(tmp_path)) == str(tmp_path)
    for missing in (str(tmp_path / "none"), "./none", "runs/a/b", "none/"):
        with pytest.raises(ConfigError, match=r"no such model folder, nor a model shipped with rlkv \(tiny-"):
            resolve_model(missing)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-reasoner").mkdir()
    assert resolve_model("tiny-reasoner") == "tiny-reasoner"
