"""The model that ships with the package: its format, and that it reasons."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlkv.cache import use_hybrid_cache
from rlkv.generation import Completion, HeadSplit, chat_prompt, generate_batched
from rlkv.grading import grade_batch
from rlkv.heads import HeadsFile, resolve
from rlkv.models import resolve_model
from rlkv.tiny.problems import TINY_WINDOW, generate
from rlkv.tiny.tokenizer import build_tokenizer

FOLDER = Path(resolve_model("tiny-reasoner"))


def test_it_is_a_small_standard_hugging_face_model() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["head_dim"] == 64
    assert config["max_position_embeddings"] >= 2048
    assert config["num_attention_heads"] > config["num_key_value_heads"], "grouped-query attention"
    assert (FOLDER / "model.safetensors").stat().st_size <= 16_000_000
    with safe_open(FOLDER / "model.safetensors", framework="pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118


def test_its_tokenizer_is_the_one_that_the_code_builds() -> None:
    shipped = AutoTokenizer.from_pretrained(FOLDER)
    assert shipped.get_vocab() == build_tokenizer().get_vocab()
    assert chat_prompt(shipped, "What is fig?").endswith("<|im_start|>assistant\n<think>\n")


def test_shipped_heads_are_this_models() -> None:
    heads = HeadsFile.read(resolve("tiny-reasoner"))
    heads.check_model(AutoModelForCausalLM.from_pretrained(FOLDER).config, "heads.json")
    assert heads.serving_window == TINY_WINDOW


@pytest.fixture(scope="module")
def answers() -> list[Completion]:
    return complete(None)


def complete(split: HeadSplit | None, count: int = 48) -> list[Completion]:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    if split is not None:
        use_hybrid_cache(model)
    prompts = [chat_prompt(tokenizer, p.prompt) for p in islice(generate("easy", "test", 0), count)]
    batches = generate_batched(model, tokenizer, prompts, max_new_tokens=112, batch_size=count, recipe=split)
    return [completion for batch in batches for completion in batch]


def accuracy(completions: list[Completion]) -> float:
    problems = list(islice(generate("easy", "test", 0), len(completions)))
    verdicts = grade_batch([c.text for c in completions], [p.answer for p in problems])
    return sum(verdict.correct for verdict in verdicts) / len(verdicts)


@pytest.mark.slow
def test_it_solves_held_out_problems_and_writes_the_one_right_solution(answers: list[Completion]) -> None:
    problems = list(islice(generate("easy", "test", 0), len(answers)))
    assert [c.text for c in answers] == [p.solution for p in problems]
    assert accuracy(answers) == 1.0


@pytest.mark.slow
def test_it_fails_when_every_head_streams() -> None:
    everything = HeadSplit(torch.ones(8, 6, dtype=torch.bool), TINY_WINDOW)
    assert accuracy(complete(everything)) <= 0.25


@pytest.mark.slow
def test_shipped_heads_keep_it_right_with_half_of_the_heads_streaming(answers: list[Completion]) -> None:
    heads = HeadsFile.read(resolve("tiny-reasoner"))
    from rlkv.heads import streaming_mask

    half = complete(HeadSplit(streaming_mask(heads.gates, 0.5), heads.serving_window))
    assert accuracy(half) >= 0.95
    assert half[0].kv_bytes < 0.75 * answers[0].kv_bytes
