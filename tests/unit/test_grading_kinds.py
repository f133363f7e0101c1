"""Letters of multiple-choice answers, code blocks, and batches of several kinds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rlkv.errors import DataError
from rlkv.grading import CODE, LETTER, MATH, Verdict, grade_batch
from rlkv.grading.code import grade_code, last_definition
from rlkv.grading.letters import find_letter, grade_letter

# What stands after </think>, the letter it gives.
LETTERS = [
    (r"\boxed{B}", "B"),
    (r"\boxed{b}", "B"),
    (r"\boxed{(B)}", "B"),
    (r"\boxed{\text{B}}", "B"),
    (r"\boxed{\text{(B)}}", "B"),
    (r"\boxed{\mathbf{B}}.", "B"),
    (r"\boxed{B. 12 joules}", "B"),
    (r"\boxed{B) 12 joules}", "B"),
    (r"\boxed{\text{B: joules}}", "B"),
    (r"\boxed{A}, no: \boxed{B}", "B"),
    (r"The answer is (A). \boxed{B}", "B"),
    (r"\boxed{12}", None),
    (r"\boxed{}", None),
    (r"\boxed{A, B}", None),
    (r"\boxed{A or B}", None),
    (r"\boxed{AB}", None),
    (r"\boxed{A good one}", None),
    (r"The answer is (A). \boxed{12}", None),
    (r"\boxed{B", None),
    ("The answer is B.", "B"),
    ("The answer is (B) because energy is conserved.", "B"),
    ("the answer is **B**", "B"),
    ("**Answer: B**", "B"),
    ("**Final Answer:** (B)", "B"),
    (r"The answer is \(B\).", "B"),
    (r"The answer is $\boxed{\text{B}}$", "B"),
    ("The correct option is B.", "B"),
    ("The correct answer is option B: 12 joules.", "B"),
    ("The answer is A. Wait, the answer is B.", "B"),
    ("The answer is A.\nB is a trap.", "A"),
    ("I rule out A and C.\nB", "B"),
    ("So it must be:\n(B).", "B"),
    ("The answer is A or B.", None),
    ("The answer is (A) or (B).", None),
    ("The answer is A, B.", None),
    ("The answer is a good question.", None),
    ("The answer is not B.", None),
    ("Is the answer B? Hard to say.", None),
    ("A body falls. I think that B is heavier than C", None),
    ("Option A: too small.\nOption B: too large.", None),
    ("A. 3\nB. 4\nC. 5", None),
    ("A car is fast.", None),
    ("12", None),
    ("", None),
    ("A" * 100_000, None),
    ("the answer is " * 8_000, None),
    ("answer is (A) or " * 6_000, None),
    ("(" * 100_000, None),
]


@pytest.mark.parametrize(("final", "letter"), LETTERS, ids=lambda value: str(value)[:40])
def test_letters(final: str, letter: str | None) -> None:
    begin = time.monotonic()
    assert find_letter(final) == letter
    assert time.monotonic() - begin < 1
    for right in "AB":
        verdict = grade_letter(f"I like \\boxed{{C}}, the answer is C.</think>{final}", right)
        assert verdict.extracted == letter and verdict.correct is (letter == right)


def test_a_letter_in_the_thought_does_not_count() -> None:
    assert grade_letter(r"The answer is B. \boxed{B}", "B") == Verdict(False, None, "no closing </think>")
    assert grade_letter(r"\boxed{B}</think>", "B") == Verdict(False, None, "empty answer")
    assert grade_letter(r"\boxed{B}</think>\boxed{A}", "B") == Verdict(False, "A", "answers A")
    assert grade_letter(r"</think>no idea", "B") == Verdict(False, None, "no letter given as the answer")
    assert grade_letter(r"The answer is B.", "B", thinking=False) == Verdict(True, "B", "answers B")


GOOD = "def f(x):\n    return x + 1\n"
BAD = "def f(x):\n    return x\n"
TESTS = "assert f(1) == 2"

# What stands after </think>, the code it gives.
BLOCKS = [
    (f"```python\n{GOOD}```", GOOD),
    (f"Here:\n```py\n{GOOD}```\nDone.", GOOD),
    (f"```\n{GOOD}```", GOOD),
    (f"```Python3 title=a\n{GOOD}```", GOOD),
    (f"```python\r\n{GOOD}```", GOOD),
    (f"```python\n{BAD}```\nBetter:\n```python\n{GOOD}```", GOOD),
    (f"```python\n{GOOD}```\nUse it:\n```python\nprint(f(1))\n```", GOOD),
    (f"```python\n{GOOD}```\nIt prints\n```\n2\n```", GOOD),
    ("```python\nf = lambda x: x + 1\n```", "f = lambda x: x + 1\n"),
    (f"```bash\n{GOOD}```", None),
    (f"```python\n{GOOD}", None),
    (GOOD, None),
    ("```python\n```", None),
    ("", None),
    ("```" * 30_000, None),
    ("```python\n" * 10_000, None),
    ("```python\n" + "\n" * 100_000 + "```", None),
    ("```python\n" + "def\n" * 25_000 + "```", None),
]


@pytest.mark.parametrize(("final", "code"), BLOCKS, ids=lambda value: repr(value)[:40])
def test_blocks(final: str, code: str | None) -> None:
    begin = time.monotonic()
    assert last_definition(final) == code
    assert time.monotonic() - begin < 1


def test_code_is_graded_by_its_tests() -> None:
    thought = f"```python\n{GOOD}```</think>"
    assert grade_code(f"{thought}```python\n{GOOD}```", TESTS) == Verdict(True, GOOD, "passes all tests")
    wrong = Verdict(False, BAD, "fails assert f(1) == 2")
    assert grade_code(f"{thought}```python\n{BAD}```", TESTS) == wrong
    assert grade_code(thought, TESTS) == Verdict(False, None, "no code block that defines anything")
    assert grade_code(thought[:20], TESTS) == Verdict(False, None, "no closing </think>")
    assert grade_code(
        "```python\ndef f(x):\n    while True: pass\n```", TESTS, 1.0, thinking=False
    ) == Verdict(False, "def f(x):\n    while True: pass\n", "time limit of 1 s")


def test_a_batch_of_several_kinds() -> None:
    responses = ["</think>\\boxed{2/4}", "</think>\\boxed{B}", f"</think>```python\n{GOOD}```"]
    answers = ["0.5", "B", TESTS]
    assert [v.correct for v in grade_batch(responses, answers, kinds=[MATH, LETTER, CODE])] == [True] * 3
    assert [v.correct for v in grade_batch(responses[::-1], answers, kinds=[MATH, LETTER, CODE])] == [
        *(False, True, False)
    ]
    with pytest.raises(DataError, match="grader: found 'art', expected one of math, letter, code"):
        grade_batch(responses, answers, kinds="art")
    with pytest.raises(ValueError, match="zip"):
        grade_batch(responses, answers, kinds=[MATH])
    assert grade_batch([], [], kinds=CODE) == []


def test_the_reward_of_training_takes_the_grader_of_each_problem() -> None:
    from rlkv.train.grpo import answer_reward

    messages = [[{"content": text}] for text in ("</think>B", "</think>B", f"</think>```python\n{GOOD}```")]
    assert answer_reward(messages, ["B", "A", TESTS], grader=["letter", "letter", "code"]) == [1.0, 0.0, 1.0]
    assert answer_reward(["</think>7"], ["7"]) == [1.0]


def test_training_data_of_another_kind(tmp_path: Path) -> None:
    """From the table to what the trainer reads."""
    from datasets import Dataset

    from rlkv.data import Selection, load_training_data, parse_buckets, save_training_data, table_problems
    from rlkv.data.responses import Response, ResponseGrader

    table = Dataset.from_list([{"problem": "Which?", "answer": "B"}])
    [problem] = table_problems(table, "problem", "answer", "", 0, LETTER)
    selection = Selection(parse_buckets("1:0-10"))
    for final in ("A", "B"):
        [sample] = ResponseGrader(True).samples([problem], [Response(f"</think>{final}", 3, "stop")])
        assert (sample is not None) == (final == "B")
        selection.add(sample)
    save_training_data(selection, tmp_path, 0, {}, grader=LETTER)
    assert load_training_data(str(tmp_path))["grader"] == ["letter"]


def test_data_of_a_model_without_thoughts_rewards_answers_without_thoughts(tmp_path: Path) -> None:
    """What ``rlkv data --no-thinking`` wrote, as the reward of training reads it."""
    from rlkv.data import Selection, load_training_data, parse_buckets, save_training_data
    from rlkv.data.buckets import Sample
    from rlkv.data.dataset import conversations
    from rlkv.train.grpo import answer_reward

    for thinking in (False, True):
        selection = Selection(parse_buckets("1:0-10"))
        selection.add(Sample("6 * 7?", "42", 3))
        save_training_data(selection, tmp_path, 0, {}, thinking=thinking)
        read = conversations(load_training_data(str(tmp_path)), "prompt")
        columns = {name: read[name] for name in read.column_names}
        assert columns.pop("prompt") == [[{"role": "user", "content": "6 * 7?"}]]
        assert answer_reward(["It is 42."], **columns) == [float(not thinking)]
        assert answer_reward(["6 * 7 ...</think>42"], **columns) == [1.0]


def test_unknown_grader_is_refused_before_the_model_loads(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from rlkv.cli.data import app

    (tmp_path / "a.jsonl").write_text('{"problem": "Which?", "answer": "B"}\n')
    options = ("--source", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out"), "--grader", "art")
    error = CliRunner().invoke(app, ["nowhere/none", *options]).exception
    assert str(error) == "--grader: found 'art', expected one of math, letter, code"
