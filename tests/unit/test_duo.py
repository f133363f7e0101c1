"""Identification by distillation: its loss, its learning rate, its contexts, its settings."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from typer.testing import CliRunner

from rlkv.cli.main import app
from rlkv.errors import ConfigError, DataError
from rlkv.models import MODELS_FOLDER
from rlkv.tiny.problems import generate
from rlkv.tiny.words import NAMES
from rlkv.train.duo.config import PRESETS, ContextKind, DuoConfig, from_preset
from rlkv.train.duo.contexts import Context, collate, contexts_of
from rlkv.train.duo.loss import LOWEST_RATE, distillation_loss, learning_rate
from rlkv.train.duo.sharding import passes_per_step

SHORT = DuoConfig(passkeys=3, passkey_words=4, min_tokens=500, max_tokens=700)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MODELS_FOLDER / "tiny-reasoner")


def test_loss_is_the_mean_square_over_channels_then_answer_then_contexts() -> None:
    full = torch.zeros(2, 3, 2)
    mixed = torch.tensor([[[1.0, 3.0], [9.0, 9.0], [2.0, 0.0]], [[9.0, 9.0], [9.0, 9.0], [4.0, 2.0]]])
    answer = torch.tensor([[True, False, True], [False, False, True]])
    first = ((1 + 9) / 2 + (4 + 0) / 2) / 2
    second = (16 + 4) / 2
    assert distillation_loss(full, mixed, answer).item() == (first + second) / 2


def test_loss_of_a_step_does_not_depend_on_how_it_is_split() -> None:
    generator = torch.Generator().manual_seed(0)
    full, mixed = torch.randn(2, 4, 9, 5, generator=generator)
    answer = torch.rand(4, 9, generator=generator) < 0.4
    answer[:, -1] = True
    halves = [distillation_loss(full[i : i + 2], mixed[i : i + 2], answer[i : i + 2]) for i in (0, 2)]
    torch.testing.assert_close(sum(halves) / 2, distillation_loss(full, mixed, answer))


def test_learning_rate_rises_stays_and_falls() -> None:
    rates = [learning_rate(step, 10, 0.02, 0.2) for step in range(10)]
    low, between = 0.02 * LOWEST_RATE, 0.02 * (LOWEST_RATE + (1 - LOWEST_RATE) / 2)
    assert rates == pytest.approx([low, between, *[0.02] * 6, between, low])
    assert [learning_rate(step, 3, 0.02, 0.0) for step in range(3)] == [0.02] * 3


def test_collate_looks_at_the_positions_that_produce_the_answer() -> None:
    ids, answer = collate([Context((7, 8, 9), (False, False, True)), Context((5, 6), (False, True))])
    assert ids.tolist() == [[7, 8, 9], [5, 6, 0]]
    assert answer.tolist() == [[False, True, False], [True, False, False]]


def answer_of(context: Context, tokenizer: PreTrainedTokenizerBase) -> str:
    pairs = zip(context.token_ids, context.is_answer, strict=True)
    return tokenizer.decode([token for token, counts in pairs if counts])


def test_tiny_contexts_end_with_the_right_solution(tokenizer: PreTrainedTokenizerBase) -> None:
    config = from_preset("tiny", level="easy", seed=3)
    context = contexts_of(config, tokenizer)(5)
    problem = next(generate("easy", "train", 3 * 1_000_000_007 + 5))
    assert answer_of(context, tokenizer) == problem.solution + tokenizer.eos_token
    text = tokenizer.decode(context.token_ids)
    assert text.count(problem.prompt) == 1
    assert text.endswith("<think>\n" + problem.solution + tokenizer.eos_token)


def test_passkeys_are_hidden_in_text_of_the_wanted_length_and_repeated(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    contexts = contexts_of(SHORT, tokenizer)
    places, lengths = set(), set()
    for number in range(6):
        context = contexts(number)
        answer = answer_of(context, tokenizer).split()
        assert len(answer) == SHORT.passkeys * SHORT.passkey_words
        assert set(answer) <= set(NAMES)
        text = tokenizer.decode(context.token_ids)
        prompt, _, reply = text.partition("</think>")
        for index, ordinal in enumerate(("first", "second", "third")):
            key = " ".join(answer[4 * index : 4 * index + 4])
            note = f"the {ordinal} passkey is {key}."
            assert prompt.count(note) == 1
            assert f"The {ordinal} passkey is {key}" in reply
            places.add(prompt.index(note))
        assert context == contexts(number)
        lengths.add(len(context.token_ids))
    assert len(places) > SHORT.passkeys
    assert len(lengths) > 1
    longest_sentence = 80 * 4  # of our own, in this small tokenizer
    assert SHORT.min_tokens - longest_sentence < min(lengths) <= max(lengths) <= SHORT.max_tokens


def test_filler_of_the_users_own(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("One plain\nsentence. Another one!\n\nA third")
    text = tokenizer.decode(contexts_of(replace(SHORT, filler=str(path)), tokenizer)(0).token_ids)
    assert "One plain sentence. " in text and " Another one! " in text and " A third " in text


def test_filler_that_cannot_be_used(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    cases = {"none.txt": "No such file", "empty.txt": "no sentence", "binary": "is not UTF-8 text"}
    for name, message in cases.items():
        with pytest.raises(DataError, match=f"{name}: filler .*{message}"):
            contexts_of(replace(SHORT, filler=str(tmp_path / name)), tokenizer)


def test_contexts_too_short_for_their_passkeys(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ConfigError, match=r"min_tokens is 1000, expected at least .* 10 passkeys of 32"):
        contexts_of(DuoConfig(), tokenizer)  # a name of this tokenizer is one token, a frame of words is many


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid(name: str) -> None:
    config = from_preset(name)
    assert config.identity()["method"] == "duo"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("ramp_share", 0.6, r"within \[0, 0.5\]"),
        ("sparsity_weight", -1.0, "at least 0"),
        ("contexts_per_pass", 3, "a divisor of contexts_per_step = 8"),
        ("max_tokens", 10, "at least 1000"),
        ("passkeys", 0, "at least 1"),
        ("level", "huge", "one of easy"),
        ("steps", 0, "at least 1"),
    ],
)
def test_a_setting_out_of_range_is_refused_in_one_line(field: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"^training: {field} is .*, expected {expected}"):
        replace(DuoConfig(), **{field: value})


def test_steps_belong_to_the_run_because_the_schedule_does() -> None:
    assert replace(DuoConfig(), steps=9).identity() != DuoConfig().identity()
    assert replace(DuoConfig(), contexts=ContextKind.TINY).identity()["contexts"] == "tiny"


def test_contexts_are_shared_out_evenly() -> None:
    assert passes_per_step(DuoConfig(), 4) == 2
    with pytest.raises(ConfigError, match="contexts_per_step is 8, expected a multiple of 3"):
        passes_per_step(DuoConfig(), 3)


def test_command_line_keeps_the_methods_apart() -> None:
    shown = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output
    assert "185 (grpo), 2000 (duo)" in shown
    assert "Only for grpo" in shown and "Only for duo" in shown
    for method, option in (("duo", "--beta"), ("grpo", "--sparsity-weight")):
        refused = CliRunner().invoke(app, ["train", "--method", method, option, "1"])
        assert refused.exit_code == 2
        name = option.removeprefix("--").replace("-", "_")
        assert refused.stderr == f"error: training: unknown setting '{name}' with method {method}\n"


def test_problems_of_two_runs_differ(tokenizer: PreTrainedTokenizerBase) -> None:
    first, second = (contexts_of(from_preset("tiny", seed=seed), tokenizer) for seed in (0, 1))
    drawn = [list(islice(map(contexts, range(4)), 4)) for contexts in (first, second)]
    assert len({context.token_ids for context in drawn[0] + drawn[1]}) == 8
