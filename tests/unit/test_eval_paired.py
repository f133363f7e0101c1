"""Paired tests, failure modes and published figures, against values worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rlkv_eval.failures import MODES, failure
from rlkv_eval.paired import paired, sign_test
from rlkv_eval.published import Published, beside, model_to_draw, of_task, read_published
from rlkv_eval.records import Sample

from rlkv.errors import ConfigError, DataError

RIGHT = Sample(0, "id", "text", "7", True, "equal", 9, 10, "stop", False, None, 1000.0, 900.0, 50)
TABLE = (
    "model\tbench\tfull\tmethod\tsp0.2\tsp0.4\n"
    "A\tMATH500\t83.0\tRLKV\t84.4\t84.6\n"
    "A\tMMLUPro-CS\t40\tRLKV\t39.5\t\n"
    "B\tMMLUPro-Chem\t41\tH2O\t1\t0\n"
)


def answers(verdicts: str) -> list[Sample]:
    return [replace(RIGHT, index=i, correct=verdict == "1") for i, verdict in enumerate(verdicts)]


@pytest.mark.parametrize(
    ("gained", "lost", "p_value"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (0, 1, 1.0),
        (0, 6, 2 / 64),
        (6, 0, 2 / 64),
        (1, 9, 22 / 1024),
        (2, 8, 112 / 1024),
    ],
)
def test_sign_test(gained: int, lost: int, p_value: float) -> None:
    assert sign_test(gained, lost) == p_value


def test_thousands_of_differences_do_not_overflow() -> None:
    assert 0 < sign_test(4000, 5000) < 1e-20


def test_pairs_are_of_the_same_problems() -> None:
    pair = paired(answers("110010"), answers("10101"), draws=1)
    assert (pair.problems, pair.gained, pair.lost) == (5, 1, 1)  # the sixth has no partner
    assert pair.p_value == 1.0


def test_several_answers_a_problem_are_one_vote() -> None:
    # right of two: 2, 1, 0, 1 against 1, 1, 2; the last problem is not answered in full by both
    pair = paired(answers("11100001"), answers("0101111"), draws=2)
    assert (pair.problems, pair.gained, pair.lost) == (3, 1, 1)


@pytest.mark.parametrize(
    ("changed", "mode"),
    [
        ({}, None),
        ({"repetitive": True, "finish_reason": "length"}, None),  # right all the same
        ({"correct": False}, "incorrect"),
        ({"correct": False, "finish_reason": "length"}, "overlong"),
        ({"correct": False, "finish_reason": "length", "repetitive": True}, "repetitive"),
        ({"correct": False, "repetitive": True}, "repetitive"),
    ],
)
def test_every_wrong_answer_fails_in_one_way(changed: dict[str, object], mode: str | None) -> None:
    assert failure(replace(RIGHT, **changed)) == mode  # type: ignore[arg-type]
    assert mode is None or mode in MODES


def test_published_rows_find_their_task(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text(TABLE)
    rows = read_published(tmp_path / "table.tsv")
    (row,) = of_task(rows, "math_500")
    assert (row.model, row.method, row.full, row.accuracy) == (
        "A",
        "RLKV",
        0.83,
        pytest.approx({0.2: 0.844, 0.4: 0.846}),
    )
    (row,) = of_task(rows, "mmlu_pro:computer_science")
    assert row.accuracy == {0.2: 0.395}  # not measured at 0.4
    assert [row.model for row in of_task(rows, "mmlu_pro:chemistry")] == ["B"]
    assert of_task(rows, "tiny:easy") == of_task(rows, "aime24") == []


def test_published_curves_are_of_one_model_and_of_methods_that_took_part(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text(TABLE)
    rows = read_published(tmp_path / "table.tsv")
    (row,) = beside(rows, "math_500", "A", ["full", "rlkv"])
    assert row.method == "rlkv" and row.accuracy == pytest.approx({0.2: 0.844, 0.4: 0.846})
    assert beside(rows, "math_500", "A", ["full", "h2o"]) == beside(rows, "math_500", "B", ["rlkv"]) == []
    assert beside(rows, "math_500", None, ["rlkv"]) == []
    duo = [replace(row, method="DuoAttention")]
    assert [found.method for found in beside(duo, "math_500", "A", ["duo-attention"])] == ["duo-attention"]


def test_published_model_is_the_asked_the_only_or_the_one_of_the_same_name() -> None:
    a, b = (Published(model, "Tiny", 1.0, "RLKV", {0.5: 1.0}) for model in ("Some-8B", "Other"))
    assert model_to_draw([a, b], "Other", "org/some_8b") == "Other"
    assert model_to_draw([a, b], None, "org/some_8b") == "Some-8B"
    assert model_to_draw([b], None, "org/some_8b") == "Other"
    assert model_to_draw([a, b], None, "org/third") is model_to_draw([], None, "org/third") is None
    with pytest.raises(ConfigError, match="published_model is 'C', expected one of Some-8B, Other"):
        model_to_draw([a, b], "C", "org/some_8b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read: No such file or directory"),
        ("model\tbench\tmethod\tsp0.2\n", "line 1 has no column full"),
        ("model\tbench\tfull\tmethod\n", "line 1 has no column sp0.5 or the like"),
        ("", "line 1 has no column model"),
        (TABLE + "A\tGSM8K\thigh\tRLKV\t1\t2\n", "line 5: could not convert string to float: 'high'"),
        (TABLE + "A\tGSM8K\n", "line 5: "),
    ],
)
def test_published_refusals(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "table.tsv").write_text(text)
    with pytest.raises(DataError, match=r"table\.tsv: ") as caught:
        read_published(tmp_path / "table.tsv")
    assert message in str(caught.value) and "\n" not in str(caught.value)
