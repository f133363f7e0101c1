"""Batched generation: what is sampled from, what an answer records."""

from __future__ import annotations

import pytest
import torch
from small_models import small_model
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rlkv.cache import use_hybrid_cache
from rlkv.errors import ConfigError
from rlkv.generation import HeadSplit, chat_prompt, generate_batched
from rlkv.models import resolve_model
from rlkv.window import Window

PROMPTS = ["What is lemon?", "lemon = 3\nWhat is lemon?", "What"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(resolve_model("tiny-reasoner"))


def model_for(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return small_model("qwen3", vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)


def test_sampling_draws_from_the_whole_vocabulary(tokenizer: PreTrainedTokenizerBase) -> None:
    model = model_for(tokenizer)
    model.lm_head.weight.data *= 1e-3  # all tokens about equally likely, no two exactly
    torch.manual_seed(0)
    (batch,) = generate_batched(
        model, tokenizer, ["What"] * 256, max_new_tokens=1, batch_size=256, temperature=1.0
    )
    assert len({answer.token_ids for answer in batch}) > 150  # transformers' own default would leave 50


HABITS: dict[str, object] = {
    "repetition_penalty": 1.8,
    "no_repeat_ngram_size": 1,
    "bad_words_ids": [[token] for token in range(40, 120)],
    "min_new_tokens": 5,
    "min_p": 0.9,
    "typical_p": 0.1,
    "suppress_tokens": list(range(120, 200)),
}
"""What a generation_config.json may recommend."""


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_models_own_generation_config_changes_no_answer(
    tokenizer: PreTrainedTokenizerBase, temperature: float
) -> None:
    def answers(model: PreTrainedModel) -> list[tuple[int, ...]]:
        torch.manual_seed(0)
        settings = {"max_new_tokens": 12, "batch_size": 3, "temperature": temperature}
        (batch,) = generate_batched(model, tokenizer, PROMPTS, **settings)  # type: ignore[arg-type]
        return [answer.token_ids for answer in batch]

    plain, changed = model_for(tokenizer), model_for(tokenizer)
    for model in (plain, changed):
        model.generation_config.eos_token_id = list(range(0, len(tokenizer), 7))
    changed.generation_config.update(**HABITS)
    own = changed.generation_config.to_dict()
    assert answers(changed) == answers(plain)
    assert changed.generation_config.to_dict() == own


def test_a_tokenizer_without_a_chat_template_is_refused() -> None:
    base = AutoTokenizer.from_pretrained(resolve_model("tiny-reasoner"))
    base.chat_template = None
    with pytest.raises(
        ConfigError, match="tiny-reasoner: its tokenizer has no chat template, expected a chat"
    ):
        chat_prompt(base, "What is lemon?")


def test_answers_come_in_order_and_end_at_their_stop(tokenizer: PreTrainedTokenizerBase) -> None:
    model, limit = model_for(tokenizer), 6
    batches = list(generate_batched(model, tokenizer, PROMPTS, max_new_tokens=limit, batch_size=2))
    answers = [answer for batch in batches for answer in batch]
    assert [len(batch) for batch in batches] == [2, 1] and [a.index for a in answers] == [0, 1, 2]
    assert {(len(a.token_ids), a.finish_reason) for a in answers} == {(limit, "length")}

    first = answers[0].token_ids
    model.generation_config.eos_token_id = first[2]
    stopped = next(generate_batched(model, tokenizer, PROMPTS, max_new_tokens=limit, batch_size=1))[0]
    assert (stopped.token_ids, stopped.finish_reason) == (first[: first.index(first[2]) + 1], "stop")


def test_bytes_are_those_of_the_cache(tokenizer: PreTrainedTokenizerBase) -> None:
    model, window = model_for(tokenizer), Window(2, 3)
    prompt = "What is lemon? " * 10
    length = len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) + 3  # the fourth is never fed
    (full,) = next(generate_batched(model, tokenizer, [prompt], max_new_tokens=4, batch_size=1))
    use_hybrid_cache(model)
    split = HeadSplit(torch.ones(3, 2, dtype=torch.bool), window)
    (small,) = next(
        generate_batched(model, tokenizer, [prompt], max_new_tokens=4, batch_size=1, recipe=split)
    )
    per_token = 3 * 2 * 8 * 2 * 4  # layers, KV heads, head_dim, keys and values, float32
    assert (full.kv_bytes, small.kv_bytes) == (length * per_token, window.size * per_token)


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_row_holds_the_bytes_of_its_own_tokens_alone(
    tokenizer: PreTrainedTokenizerBase, hybrid: bool
) -> None:
    """Neither padding nor the batch's longer answers count, and peak and mean are those of the steps."""
    model, window = model_for(tokenizer), Window(2, 3)
    recipe = HeadSplit(torch.tensor([[True, False]] * 3), window) if hybrid else None
    if hybrid:
        use_hybrid_cache(model)
    model.generation_config.eos_token_id = list(range(0, len(tokenizer), 7))  # answers of several lengths
    prompts = [f"What is lemon? {'lemon ' * count}" for count in (1, 9, 4, 20, 2, 0)]
    (answers,) = generate_batched(model, tokenizer, prompts, max_new_tokens=12, batch_size=6, recipe=recipe)
    assert len({len(answer.token_ids) for answer in answers}) > 1
    for prompt, answer in zip(prompts, answers, strict=True):
        begin = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        lengths = range(begin, begin + len(answer.token_ids))  # the last new token is never passed
        slots = [3 * (n + min(n, window.size) if hybrid else 2 * n) for n in lengths]
        held = [count * 8 * 2 * 4 for count in slots]
        assert (answer.kv_bytes, answer.kv_mean_bytes) == (held[-1], pytest.approx(sum(held) / len(held)))
