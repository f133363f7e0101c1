"""``rlkv data`` for real: the shipped model solves the easiest level of its task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlkv.cli.data import app
from rlkv.data import load_training_data
from rlkv.data.solver import ModelSolver
from rlkv.data.source import Problem
from rlkv.errors import RLKVError
from rlkv.models import resolve_model

MODEL = "tiny-reasoner"
EASY = ["--source", "tiny", "--levels", "easy", "--batch-size", "4"]


def rlkv_data(*options: str) -> str:
    """Standard output of the command, which must succeed."""
    result = CliRunner().invoke(app, list(options), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_tiny_reasoner_makes_its_training_data(tmp_path: Path) -> None:
    out = tmp_path / "data"
    options = [MODEL, *EASY, "--buckets", "3:0-60,2:60-80", "--out", str(out)]
    first = rlkv_data(*options, "--max-problems", "4")
    assert "asked 4, " in first
    journal = (out / "journal.jsonl").read_text()
    assert json.loads(journal.splitlines()[0])["identity"]["model"] == MODEL

    with (out / "journal.jsonl").open("a") as file:
        file.write('{"prompt": "cut off')  # as a kill leaves it
    second = rlkv_data(*options, "--max-problems", "64")
    assert (out / "journal.jsonl").read_text().startswith(journal)
    assert "5 samples" in second

    table = load_training_data(str(out))
    assert table["bucket"] == [0, 0, 0, 1, 1]
    assert max(table["response_length"][:3]) <= 60 < min(table["response_length"][3:])
    assert max(table["response_length"]) <= 80
    assert all(row["prompt"].startswith("Every result is taken modulo 10.") for row in table)
    assert all(row["answer"] in "0123456789" for row in table)
    assert (out / "README.md").read_text().count("| 3 | 3 |") == 1

    again = rlkv_data(*options, "--max-problems", "64")  # nothing left to ask
    assert again == second
    with pytest.raises(RLKVError, match="begun with seed 0, now asked for 1"):
        rlkv_data(*options, "--seed", "1")


def test_solver_keeps_finished_right_answers_only() -> None:
    easy = "Every result is taken modulo 10.\n- fig = 4\n- moss = fig + 3\n- lake = fig * 2\nWhat is moss?"
    right, wrong = Problem(easy, "7"), Problem(easy, "8")
    solved, failed = ModelSolver(resolve_model(MODEL), None, 100, thinking=True).solve([right, wrong])
    assert solved is not None and solved.prompt == easy and solved.answer == "7"
    assert failed is None
    cut_off = ModelSolver(resolve_model(MODEL), None, solved.response_length - 1, thinking=True)
    assert cut_off.solve([right]) == [None]
    just_enough = ModelSolver(resolve_model(MODEL), None, solved.response_length, thinking=True)
    assert just_enough.solve([right]) == [solved]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["./none", *EASY], "./none: no such model folder"),
        ([MODEL, "--source", "./none.jsonl"], "none.jsonl: no such file or folder"),
        (
            [MODEL, "--source", "tiny", "--levels", "easy,huge"],
            "--levels: found 'huge', expected some of easy",
        ),
        ([MODEL, *EASY, "--buckets", "lots"], "found 'lots', expected COUNT:MIN-MAX"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(options: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(RLKVError) as caught:
        rlkv_data(*options, "--out", str(tmp_path / "out"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_model_that_solves_nothing(tmp_path: Path) -> None:
    """A table whose answers are all wrong: the run says so early, the journal remembers what was asked."""
    rows = [{"problem": "Every result is taken modulo 10.\n- fig = 4\nWhat is fig?", "answer": "5"}] * 64
    source = tmp_path / "problems.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    options = [MODEL, "--source", str(source), "--buckets", "1:0-60", "--instruction", "", "--out", str(out)]
    result = CliRunner().invoke(app, options)
    assert isinstance(result.exception, RLKVError)
    assert "of 64 problems asked, 0 were solved" in str(result.exception)
    assert "warning: none of the first 64 problems was solved, 64 of them with: differs; " in result.stderr
    lines = (out / "journal.jsonl").read_text().splitlines()[1:]
    assert list(map(json.loads, lines)) == [{"problem": n, "attempt": None} for n in range(64)]
