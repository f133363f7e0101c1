"""Intervals and repetition, against values worked out by hand."""

from __future__ import annotations

import pytest
from rlkv_eval.metrics import PAPER_REPETITION, Repetition, pass_at_1, wilson_interval
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


def test_pass_at_1_of_one_answer_a_problem_is_the_plain_share() -> None:
    estimate = pass_at_1([[True]] * 8 + [[False]] * 2)
    assert estimate.accuracy == 0.8
    assert (estimate.low, estimate.high) == pytest.approx(wilson_interval(8, 10))
    assert estimate.standard_error == pytest.approx((0.8 * 0.2 / 9) ** 0.5)


@pytest.mark.parametrize(
    ("shares", "successes", "trials"),
    [
        ([(1, 1), (0, 0), (1, 1), (0, 0)], 2, 4),  # draws that always agree add nothing
        ([(1, 1), (1, 0), (0, 1), (0, 0)], 4, 8),  # spread over problems as of independent draws
        ([(1, 0), (1, 0), (1, 0), (0, 1)], 4, 8),  # never more than there are answers
        ([(1, 1), (1, 1), (1, 1), (1, 1)], 4, 4),
        ([(1, 1, 1), (0, 0, 0), (1, 1, 1), (1, 0, 0)], 7 / 3 * 35 / 27, 4 * 35 / 27),
    ],
)
def test_interval_of_pass_at_1_counts_independent_answers(
    shares: list[tuple[int, ...]], successes: float, trials: float
) -> None:
    estimate = pass_at_1([[bool(right) for right in answers] for answers in shares])
    assert estimate.accuracy == pytest.approx(successes / trials)
    assert (estimate.low, estimate.high) == pytest.approx(wilson_interval(successes, trials))


def test_standard_error_of_pass_at_1() -> None:
    # shares 1, 0.5, 0.5, 0: squared deviations sum to 0.5, over 3 and over 4
    assert pass_at_1([[True, True], [True, False], [False, True], [False, False]]).standard_error == (
        pytest.approx((0.5 / 3 / 4) ** 0.5)
    )


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
