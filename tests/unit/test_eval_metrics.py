"""Intervals and repetition, against values worked out by hand."""

from __future__ import annotations

import pytest
from rlkv_eval.metrics import PAPER_REPETITION, Repetition, wilson_interval
from rlkv_eval.tasks import get_task, task_names


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (50, 100, 0.4038, 0.5962),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_interval(successes: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("total", [1, 3, 10, 333, 2000])
def test_wilson_interval_holds_the_share(total: int) -> None:
    for successes in range(total + 1):
        low, high = wilson_interval(successes, total)
        assert 0 <= low <= successes / total <= high <= 1


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2] * 200, True),  # 2 different among the last 400
        ([*range(39), *[0] * 361], True),  # 39 different: fewer than 40
        ([*range(40), *[0] * 360], False),  # 40 different: not fewer
        ([*range(1000), *[7] * 400], True),  # only the last 400 count
        ([7] * 400 + list(range(400)), False),
        ([7] * 399, False),  # shorter than the window
        ([], False),
    ],
)
def test_paper_repetition(tokens: list[int], expected: bool) -> None:
    assert PAPER_REPETITION.holds(tokens) is expected


def test_repetition_of_another_size() -> None:
    assert Repetition(window=4, distinct=3).holds([9, 9, 1, 2, 1, 2])
    assert not Repetition(window=4, distinct=3).holds([9, 9, 1, 2, 3, 2])


def test_no_right_solution_of_the_tiny_task_is_repetitive_and_a_loop_is() -> None:
    from itertools import islice

    from rlkv.tiny.problems import LEVELS, generate
    from rlkv.tiny.tokenizer import END_OF_TURN, build_tokenizer

    tokenizer, task = build_tokenizer(problems_per_level=200), get_task("tiny")
    for level in LEVELS:
        for problem in islice(generate(level, "validation", 1), 40):
            tokens = tokenizer(problem.solution + END_OF_TURN)["input_ids"]
            assert not task.repetition.holds(tokens)
            assert len(tokens) * 1.3 < task.max_new_tokens(level)
    line = "\n- lemon = moss + 3, need moss\n- moss = lemon + 4, need lemon"
    assert task.repetition.holds(tokenizer(line * 20)["input_ids"])


def test_tiny_task_is_seeded_and_its_splits_differ() -> None:
    task = get_task("tiny")
    assert "tiny" in task_names()
    first = task.examples("easy", "test", 0, 20)
    assert first == task.examples("easy", "test", 0, 20)
    assert first[:5] == task.examples("easy", "test", 0, 5)
    assert not {e.id for e in first} & {e.id for e in task.examples("easy", "test", 1, 20)}
    assert not {e.id for e in first} & {e.id for e in task.examples("easy", "validation", 0, 20)}
