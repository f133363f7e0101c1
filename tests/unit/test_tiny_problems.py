"""The tiny reasoner's task: problems have one right solution, and splits never share one."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from rlkv.errors import ConfigError
from rlkv.grading import grade
from rlkv.tiny.problems import LEVELS, SPLIT_BUCKETS, Definition, Problem, generate
from rlkv.tiny.tokenizer import build_tokenizer
from rlkv.tiny.words import NAMES

WORKED = Problem(
    level="easy",
    definitions=(
        Definition("oak", "fig", "*", "fox"),
        Definition("owl", "oak", "+", "2"),
        Definition("fox", "3"),
        Definition("fig", "fox", "-", "7"),
    ),
    chain=(
        Definition("oak", "fig", "*", "fox"),
        Definition("fig", "fox", "-", "7"),
        Definition("fox", "3"),
    ),
)


def test_a_worked_problem_reads_as_a_person_would_solve_it() -> None:
    assert WORKED.prompt == (
        "Every result is taken modulo 10.\n"
        "- oak = fig * fox\n- owl = oak + 2\n- fox = 3\n- fig = fox - 7\n"
        "What is oak?"
    )
    assert WORKED.solution == (
        "Find the definitions that matter:\n"
        "- oak = fig * fox, need fig\n- fig = fox - 7, need fox\n- fox = 3, known\n"
        "Evaluate from the end:\n"
        "- fox = 3\n- fig = fox - 7 = 3 - 7 = 6\n- oak = fig * fox = 6 * 3 = 8\n"
        "</think>\n"
        r"The answer is \boxed{8}."
    )
    assert WORKED.answer == "8"


def solve(prompt: str) -> int:
    """An independent solver: recursion over the listed definitions."""
    listed = dict(re.findall(r"^- (\w+) = (.*)$", prompt, re.M))
    question = re.search(r"What is (\w+)\?", prompt)
    assert question is not None

    def value(word: str) -> int:
        if word.isdigit():
            return int(word)
        expression = listed[word].split()
        if len(expression) == 1:
            return value(expression[0])
        left, right = value(expression[0]), value(expression[2])
        return {"+": left + right, "-": left - right, "*": left * right}[expression[1]] % 10

    return value(question[1])


@pytest.mark.parametrize("level", LEVELS)
def test_solutions_are_right_and_levels_are_as_described(level: str) -> None:
    spec = LEVELS[level]
    for problem in islice(generate(level, "test", 3), 50):
        assert str(solve(problem.prompt)) == problem.answer
        assert grade(problem.solution, problem.answer).correct
        assert len(problem.definitions) == spec.num_definitions
        assert spec.chain[0] <= len(problem.chain) <= spec.chain[1]
        names = [definition.name for definition in problem.definitions]
        assert len(set(names)) == len(names)


def test_the_same_arguments_give_the_same_problems_and_another_seed_others() -> None:
    first, again, other = (list(islice(generate("medium", "train", seed), 20)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_splits_never_overlap() -> None:
    assert sorted(byte for bucket in SPLIT_BUCKETS.values() for byte in bucket) == list(range(256))
    for split in SPLIT_BUCKETS:
        assert all(p.split == split for p in islice(generate("easy", split, 0), 30))


@pytest.mark.parametrize(("level", "split", "kind"), [("huge", "test", "level"), ("easy", "dev", "split")])
def test_unknown_level_or_split_is_refused(level: str, split: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"^tiny task: {kind} is '{level if kind == 'level' else split}'"):
        next(generate(level, split, 0))


def test_hardest_level_writes_answers_of_500_tokens() -> None:
    tokenizer = build_tokenizer(50)
    lengths = [len(tokenizer(p.solution)["input_ids"]) for p in islice(generate("expert", "test", 0), 40)]
    assert max(lengths) >= 500


def test_names_digits_and_think_tags_are_single_tokens_and_any_text_survives() -> None:
    tokenizer = build_tokenizer(2000)
    for word in [*NAMES, *"0123456789"]:
        assert len(tokenizer(f" {word}")["input_ids"]) == 1, word
    for tag in ("<think>", "</think>"):
        assert len(tokenizer(tag)["input_ids"]) == 1
    text = WORKED.solution + " Grüße, 世界!"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (
        tokenizer.decode(tokenizer(WORKED.solution)["input_ids"], skip_special_tokens=True) == WORKED.solution
    )
