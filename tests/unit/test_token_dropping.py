"""Token-dropping caches on a small random model: what is kept, what is freed, what it is chosen by."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from rlkv_eval.config import TOKEN_DROPPERS as NAMES
from rlkv_eval.rivals import TOKEN_DROPPERS
from rlkv_eval.rivals.base import Held, TokenDropper
from rlkv_eval.rivals.budget import Budget
from rlkv_eval.rivals.cache import DroppingCache
from rlkv_eval.rivals.h2o import H2O
from rlkv_eval.rivals.kvzip import KVzip, importance
from rlkv_eval.rivals.r_kv import RKV
from rlkv_eval.rivals.random_attention import RandomAttention
from rlkv_eval.rivals.snapkv import SnapKV
from rlkv_eval.rivals.streaming_llm import StreamingLLM
from rlkv_eval.rivals.token_slots import TokenSlots
from small_models import NUM_KV_HEADS, NUM_LAYERS, pad_left, random_tokens, small_model
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rlkv.cache import use_hybrid_cache
from rlkv.errors import UnsupportedError

HEAD_DIM = 8
NEW_TOKENS = 20
PROMPTS = (30, 9, 41)
SLOT_BYTES = 2 * HEAD_DIM * 4  # a key and a value in float32

DROPPERS = {
    "h2o": H2O(),
    "snapkv": SnapKV(window=4, kernel=3),
    "streaming-llm": StreamingLLM(sinks=2),
    "kvzip": KVzip(sinks=2),
    "r-kv": RKV(window=4, kernel=3),
    "random-attention": RandomAttention(),
    "every fourth step": SnapKV(window=4, kernel=3, interval=4),
    "every 128th step": RKV(window=4, kernel=3, interval=128),
}
REPEATABLE = [name for name in DROPPERS if name != "random-attention"]


@cache
def dropping_model() -> PreTrainedModel:
    model = small_model("qwen3")
    use_hybrid_cache(model)
    return model


def batch(*lengths: int) -> tuple[Tensor, Tensor]:
    return pad_left([random_tokens(n, seed=n) for n in lengths])


def answer(name: str, budget: Budget, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, DroppingCache]:
    """New tokens, and the cache after them."""
    torch.manual_seed(0)
    model = dropping_model()
    cache = DroppingCache(DROPPERS[name], budget, model, *inputs)
    return generate(model, inputs, cache), cache


def generate(model: PreTrainedModel, inputs: tuple[Tensor, Tensor], cache: object) -> Tensor:
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "past_key_values": cache}
    return model.generate(inputs[0], attention_mask=inputs[1], **options)[:, inputs[0].shape[1] :]


def test_every_registered_method_is_tested() -> None:
    assert {type(method) for method in DROPPERS.values()} == set(TOKEN_DROPPERS.values())
    assert tuple(TOKEN_DROPPERS) == NAMES  # which the command line reads without torch


@pytest.mark.parametrize("name", DROPPERS)
def test_the_whole_budget_gives_the_full_tokens(name: str) -> None:
    inputs = batch(*PROMPTS)
    full = generate(small_model("qwen3"), inputs, DynamicCache())
    assert torch.equal(answer(name, Budget(1.0), inputs)[0], full)


@pytest.mark.parametrize("name", REPEATABLE)
def test_a_row_is_answered_alike_alone_and_padded(name: str) -> None:
    together, _ = answer(name, Budget(0.5), batch(*PROMPTS))
    for row, length in enumerate(PROMPTS):
        assert torch.equal(answer(name, Budget(0.5), batch(length))[0][0], together[row])


@pytest.mark.parametrize("reference_length", [0, 50])
@pytest.mark.parametrize("name", DROPPERS)
def test_the_bytes_are_the_budget_at_every_step(name: str, reference_length: int) -> None:
    model, inputs = dropping_model(), batch(40, 40)
    budget = Budget(0.6, reference_length)
    cache = DroppingCache(DROPPERS[name], budget, model, *inputs)
    tokens, interval = inputs[0], DROPPERS[name].interval
    for step in range(NEW_TOKENS):
        logits = model(tokens, past_key_values=cache, attention_mask=torch.ones(2, 40 + step)).logits
        tokens = logits[:, -1:].argmax(dim=-1)
        length = 40 + step
        allowed = min(length, budget.most(length))
        a_head, rest = divmod(cache.nbytes(), 2 * NUM_LAYERS * NUM_KV_HEADS * SLOT_BYTES)
        assert rest == 0 and allowed - interval < a_head <= allowed
        in_use = cache.bytes_in_use(torch.tensor([length] * 2)).tolist()
        at_prompt = step == 0 and name == "kvzip"  # which reads the whole prompt first
        assert in_use == [NUM_LAYERS * NUM_KV_HEADS * SLOT_BYTES * (40 if at_prompt else a_head)] * 2
        # The freed tokens' memory is gone with the tensors that held it.
        storages = [layer.slots.keys.untyped_storage().nbytes() for layer in cache.dropping_layers]
        assert sum(storages) * 2 == cache.nbytes()


def test_rows_of_other_lengths_hold_their_own_budget() -> None:
    _, cache = answer("h2o", Budget(0.5), batch(*PROMPTS))
    lengths = torch.tensor(PROMPTS) + NEW_TOKENS - 1  # the last new token is never passed
    expected = NUM_LAYERS * NUM_KV_HEADS * SLOT_BYTES * Budget(0.5).most_each(lengths)
    assert torch.equal(cache.bytes_in_use(lengths), expected)


def test_streaming_llm_keeps_sinks_and_recent_tokens() -> None:
    _, cache = answer("streaming-llm", Budget(0.5), batch(40))
    length = 40 + NEW_TOKENS - 1
    kept = [0, 1, *range(length - (length // 2 - 2), length)]
    for layer in cache.dropping_layers:
        assert layer.slots.positions.tolist() == [[kept] * NUM_KV_HEADS]


def test_random_attention_keeps_the_prompt_where_it_fits_and_heads_differ() -> None:
    _, cache = answer("random-attention", Budget(0.8, reference_length=60), batch(40))
    rows = [row for layer in cache.dropping_layers for row in layer.slots.positions[0].tolist()]
    assert all(row[:40] == list(range(40)) and row[-1] == 58 and len(row) == 48 for row in rows)
    assert len({tuple(row) for row in rows}) > 1


def test_random_attention_drops_from_a_prompt_that_does_not_fit() -> None:
    _, cache = answer("random-attention", Budget(0.5), batch(40))
    generated = [int((layer.slots.positions >= 40).sum()) for layer in cache.dropping_layers]
    assert min(generated) > NUM_KV_HEADS  # not the newest token alone


def test_kvzip_keeps_what_was_generated() -> None:
    _, cache = answer("kvzip", Budget(0.6), batch(40))
    for layer in cache.dropping_layers:
        for row in layer.slots.positions[0].tolist():
            assert row[:2] == [0, 1] and row[-(NEW_TOKENS - 1) :] == list(range(40, 59))


def test_kvzip_keeps_sinks_and_the_newest_where_what_must_stay_does_not_fit() -> None:
    _, cache = answer("kvzip", Budget(0.1), batch(40))
    for layer in cache.dropping_layers:
        assert layer.slots.positions.tolist() == [[[0, 1, 56, 57, 58]] * NUM_KV_HEADS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", [StreamingLLM(), KVzip()], ids=["streaming-llm", "kvzip"])
def test_tokens_thousands_of_positions_on_go_in_order(method: TokenDropper, dtype: torch.dtype) -> None:
    positions = torch.arange(9000)[None, None]
    slots = TokenSlots(
        torch.zeros(1, 1, 9000, HEAD_DIM, dtype=dtype),
        torch.zeros(1, 1, 9000, HEAD_DIM, dtype=dtype),
        {"positions": positions, "given": torch.zeros(1, 1, 9000, dtype=dtype)},
    )
    lengths, counts, none = torch.tensor([9000]), torch.tensor([20]), torch.zeros(0)
    scores = method.scores(Held(slots, lengths, torch.tensor([10]), counts, none, none, 1.0))
    slots.keep(scores, counts, 20)
    assert slots.positions[0, 0].tolist() == [*range(4), *range(9000 - 16, 9000)]


def test_an_interval_that_the_budget_has_no_room_for_leaves_more_than_one_token() -> None:
    _, cache = answer("every 128th step", Budget(0.5), batch(40))
    assert {layer.slots.positions.shape[2] for layer in cache.dropping_layers} == {59 // 2}


def eager_attention(ids: Tensor) -> tuple[Tensor, ...]:
    """[1, Hq, T, T] of each layer, by transformers' own attention."""
    model = small_model("qwen3")
    model.set_attn_implementation("eager")
    return model(ids, output_attentions=True).attentions


def by_group(attention: Tensor) -> Tensor:
    """[Hkv, G, Tq, Tk]."""
    return attention[0].unflatten(0, (NUM_KV_HEADS, -1))


def test_h2o_counts_the_attention_that_tokens_received() -> None:
    ids, mask = batch(40)
    tokens, cache = answer("h2o", Budget(1.0), (ids, mask))
    whole = eager_attention(torch.cat([ids, tokens[:, :-1]], dim=1))
    for layer, attention in zip(cache.dropping_layers, whole, strict=True):
        expected = by_group(attention).sum(dim=(1, 2))
        torch.testing.assert_close(layer.slots.marks["received"][0], expected, rtol=1e-4, atol=1e-4)


def test_h2o_counts_in_float32_whatever_the_model_has() -> None:
    model = small_model("qwen3").bfloat16()
    use_hybrid_cache(model)
    inputs = batch(300)
    cache = DroppingCache(H2O(), Budget(1.0), model, *inputs)
    generate(model, inputs, cache)
    group = model.config.num_attention_heads // NUM_KV_HEADS
    for layer in cache.dropping_layers:
        total = layer.slots.marks["received"].double().sum(dim=-1)  # each query gives away 1
        expected = torch.full_like(total, group * (300 + NEW_TOKENS - 1))
        torch.testing.assert_close(total, expected, rtol=1e-5, atol=0)


def test_h2o_keeps_heavy_hitters_and_recent_tokens() -> None:
    ids, mask = batch(40)
    model = dropping_model()
    cache = DroppingCache(H2O(), Budget(0.5), model, ids, mask)
    model(ids, attention_mask=mask, past_key_values=cache)
    for layer, attention in zip(cache.dropping_layers, eager_attention(ids), strict=True):
        received = by_group(attention).sum(dim=(1, 2))
        for head in range(NUM_KV_HEADS):
            heavy = received[head, :30].topk(10).indices.tolist()
            assert layer.slots.positions[0, head].tolist() == sorted(heavy) + list(range(30, 40))


def test_snapkv_scores_by_its_windows_attention() -> None:
    ids, mask = batch(40)
    model = dropping_model()
    cache = DroppingCache(SnapKV(window=4, kernel=3), Budget(0.5), model, ids, mask)
    model(ids, attention_mask=mask, past_key_values=cache)
    for layer, attention in zip(cache.dropping_layers, eager_attention(ids), strict=True):
        mean = by_group(attention)[:, :, -4:].mean(dim=(1, 2))
        padded = torch.nn.functional.pad(mean, (1, 1))
        pooled = (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3
        for head in range(NUM_KV_HEADS):
            best = pooled[head, :36].topk(16).indices.tolist()
            assert layer.slots.positions[0, head].tolist() == sorted(best) + list(range(36, 40))


def test_r_kv_redundancy_is_the_mean_similarity_to_other_tokens() -> None:
    torch.manual_seed(0)
    keys = torch.randn(6, HEAD_DIM)
    keys[3], keys[5] = 2 * keys[1], 3 * keys[1]  # three copies, of which the newest is spared
    method, found = RKV(), {}
    held = type("Held", (), {"slots": type("Slots", (), {})})()
    held.slots.keys = keys[None, None]
    held.slots.filled = torch.ones(1, 1, 6, dtype=torch.bool)
    unit = keys / keys.norm(dim=-1, keepdim=True)
    for column in range(6):
        total = 0.0
        for row in range(6):
            similar = [j for j in range(6) if j != row and float(unit[row] @ unit[j]) > method.similar]
            spared = similar and column == max(similar)
            total += 0.0 if row == column or spared else float(unit[row] @ unit[column])
        found[column] = total / 6
    expected = torch.tensor([found[column] for column in range(6)]).softmax(dim=-1)
    torch.testing.assert_close(method.redundancy(held)[0, 0], expected, rtol=1e-4, atol=1e-5)
    assert expected[1] > expected[5]


def test_kvzip_importance_is_the_strongest_attention_of_the_repetition() -> None:
    request = (5, 6, 7)
    inputs = batch(12, 20)
    found = importance(dropping_model(), *inputs, request)
    for row, length in enumerate((12, 20)):
        prompt = inputs[0][row, -length:]
        whole = torch.cat([prompt, torch.tensor(request), prompt])[None]
        for layer, attention in zip(found, eager_attention(whole), strict=True):
            expected = by_group(attention)[:, :, -length:, :length].amax(dim=(1, 2))
            torch.testing.assert_close(layer[row, :, -length:], expected, rtol=1e-4, atol=1e-5)
            assert not layer[row, :, :-length].any()


def test_a_second_pass_of_many_tokens_is_refused() -> None:
    model, inputs = dropping_model(), batch(10)
    cache = DroppingCache(H2O(), Budget(0.5), model, *inputs)
    model(inputs[0], past_key_values=cache)
    with pytest.raises(UnsupportedError, match="found 10 tokens in a pass after the prompt, expected 1"):
        model(inputs[0], past_key_values=cache)
