"""The hybrid cache on a small random model: the mask reference's tokens in really less memory."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch
from small_models import (
    NUM_KV_HEADS,
    NUM_LAYERS,
    make_mask_reference,
    pad_left,
    random_tokens,
    small_model,
)
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rlkv.cache import GROWTH, HybridCache, use_hybrid_cache
from rlkv.errors import UnsupportedError
from rlkv.generation import cache_bytes
from rlkv.heads import num_streaming, random_mask
from rlkv.window import Window

WINDOW = Window(3, 8)
HEAD_DIM = 8
NEW_TOKENS = 24  # more than S + W: the ring goes round while decoding
SPARSITIES = (0.0, 0.25, 0.5, 1.0)

BATCHES = {
    "one token": (1,),
    "inside the sinks": (3,),
    "window full": (11,),
    "window full and one": (12,),
    "long": (75,),
    "padded": (1, 2, 75, 11, 12, 30),
    "padded, none over the window": (4, 1, 7),
}


def mask_at(sparsity: float) -> Tensor:
    return random_mask(NUM_LAYERS, NUM_KV_HEADS, sparsity, seed=0)


@cache
def hybrid_model() -> PreTrainedModel:
    model = small_model("qwen3")
    use_hybrid_cache(model)
    return model


@cache
def reference_model(sparsity: float) -> PreTrainedModel:
    return make_mask_reference(small_model("qwen3"), mask_at(sparsity), WINDOW)


def batch(title: str) -> tuple[Tensor, Tensor]:
    return pad_left([random_tokens(n, seed=n) for n in BATCHES[title]])


def generate(model: PreTrainedModel, inputs: tuple[Tensor, Tensor], **options: object) -> Tensor:
    """Tokens of a search, greedy unless told otherwise, the prompt left out."""
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **options}
    return model.generate(inputs[0], attention_mask=inputs[1], **settings)[:, inputs[0].shape[1] :]


@cache
def reference_tokens(title: str, sparsity: float) -> Tensor:
    return generate(reference_model(sparsity), batch(title))


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("title", BATCHES)
@pytest.mark.parametrize("chunk", [None, 1, 7, 64])
def test_tokens_equal_the_mask_reference(title: str, sparsity: float, chunk: int | None) -> None:
    hybrid = HybridCache(mask_at(sparsity), WINDOW)
    found = generate(hybrid_model(), batch(title), past_key_values=hybrid, prefill_chunk_size=chunk)
    assert torch.equal(found, reference_tokens(title, sparsity))


@pytest.mark.parametrize("window", [Window(0, 1), Window(0, 6), Window(5, 1), Window(40, 60)], ids=str)
def test_any_window(window: Window) -> None:
    streaming = mask_at(0.5)
    model = make_mask_reference(small_model("qwen3"), streaming, window)
    expected = generate(model, batch("padded"))
    for chunk in (None, 5):
        hybrid = HybridCache(streaming, window)
        found = generate(hybrid_model(), batch("padded"), past_key_values=hybrid, prefill_chunk_size=chunk)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("chunk", [1, 5, 75])
def test_logits_equal_the_mask_reference(chunk: int) -> None:
    """Closer than tokens can tell: every logit of every real token of a padded batch."""
    ids, mask = batch("padded")
    streaming = mask_at(0.5)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    hybrid = HybridCache(streaming, WINDOW)
    with torch.no_grad():
        expected = reference_model(0.5)(ids, attention_mask=mask, position_ids=positions).logits
        parts = [
            hybrid_model()(
                ids[:, begin : begin + chunk],
                attention_mask=mask[:, : begin + chunk],
                position_ids=positions[:, begin : begin + chunk],
                past_key_values=hybrid,
            ).logits
            for begin in range(0, ids.shape[1], chunk)
        ]
    found, expected = torch.cat(parts, dim=1)[mask.bool()], expected[mask.bool()]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("title", ["long", "padded"])
def test_sparsity_0_is_the_stock_model(title: str) -> None:
    stock = generate(small_model("qwen3"), batch(title), past_key_values=DynamicCache())
    hybrid = HybridCache(mask_at(0.0), WINDOW)
    assert torch.equal(generate(hybrid_model(), batch(title), past_key_values=hybrid), stock)


def test_the_masks_of_this_file_change_the_tokens() -> None:
    """Else the equalities above would show nothing."""
    tokens = [reference_tokens("long", sparsity) for sparsity in SPARSITIES]
    assert all(not torch.equal(a, b) for a, b in pairwise(tokens))


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize(("prompt", "chunk"), [(1, None), (5, None), (75, None), (75, 7), (130, None)])
def test_streaming_heads_hold_sinks_and_recent_tokens_only(
    sparsity: float, prompt: int, chunk: int | None
) -> None:
    streaming = mask_at(sparsity)
    hybrid = HybridCache(streaming, WINDOW)
    inputs = random_tokens(2, prompt), torch.ones(2, prompt, dtype=torch.long)
    generate(hybrid_model(), inputs, past_key_values=hybrid, prefill_chunk_size=chunk)

    length = prompt + NEW_TOKENS - 1  # the last token was never fed
    assert hybrid.get_seq_length() == length
    capacity = -(-length // GROWTH) * GROWTH
    kept = {j for j in range(length) if j < WINDOW.sink_size or length - 1 - j < WINDOW.recent_size}
    expected_bytes = 0
    for layer, row in zip(hybrid.layers, streaming, strict=True):
        num_streaming_heads, num_full_heads = int(row.sum()), int((~row).sum())
        for tensor in (layer.window_keys, layer.window_values):
            assert tensor.shape == (2, num_streaming_heads, WINDOW.size, HEAD_DIM)
        for tensor in (layer.keys, layer.values):
            assert tensor.shape == (
                2,
                num_full_heads,
                capacity if num_full_heads else tensor.shape[2],
                HEAD_DIM,
            )
        if num_streaming_heads:
            for slots in hybrid.slots.positions.tolist():
                assert sorted(p for p in slots if p >= 0) == sorted(kept)
        # batch x slots x head_dim x (keys and values) x 4 bytes
        expected_bytes += (
            2 * (num_streaming_heads * WINDOW.size + num_full_heads * capacity) * HEAD_DIM * 2 * 4
        )
        stored = [t for t in vars(layer).values() if isinstance(t, Tensor) and t.is_floating_point()]
        assert sum(t.untyped_storage().nbytes() for t in stored) == layer.nbytes()  # no view of more
    assert hybrid.nbytes() == cache_bytes(hybrid) == expected_bytes


def test_slots_by_hand() -> None:
    """Window 2+3 after 9 tokens: sinks 0 and 1; then 6, 7, 8 in the ring that begins at position 2."""
    hybrid = HybridCache(torch.ones(NUM_LAYERS, NUM_KV_HEADS, dtype=torch.bool), Window(2, 3))
    with torch.no_grad():
        hybrid_model()(random_tokens(1, 9), past_key_values=hybrid)
    assert hybrid.slots.positions.tolist() == [[0, 1, 8, 6, 7]]


def test_sparsity_saves_what_it_says() -> None:
    inputs = random_tokens(1, 400), torch.ones(1, 400, dtype=torch.long)
    full = DynamicCache()
    generate(small_model("qwen3"), inputs, past_key_values=full, max_new_tokens=2)
    assert cache_bytes(full) == 401 * NUM_LAYERS * NUM_KV_HEADS * HEAD_DIM * 2 * 4
    sizes = {}
    for sparsity in SPARSITIES:
        hybrid = HybridCache(mask_at(sparsity), WINDOW)
        generate(hybrid_model(), inputs, past_key_values=hybrid, max_new_tokens=2)
        sizes[sparsity] = hybrid.nbytes()
    for sparsity, size in sizes.items():
        streaming = num_streaming(sparsity, NUM_LAYERS * NUM_KV_HEADS)
        share = streaming / (NUM_LAYERS * NUM_KV_HEADS)
        assert size / cache_bytes(full) == pytest.approx((1 - share) * 448 / 401 + share * WINDOW.size / 401)


@pytest.mark.parametrize("title", ["long", "padded"])
def test_beams_equal_the_mask_references(title: str) -> None:
    options = {"num_beams": 3, "num_return_sequences": 3}
    expected = generate(reference_model(0.5), batch(title), **options)
    hybrid = HybridCache(mask_at(0.5), WINDOW)
    assert torch.equal(generate(hybrid_model(), batch(title), past_key_values=hybrid, **options), expected)
    assert not torch.equal(expected[0], reference_tokens(title, 0.5)[0])  # the beams found another way


def test_rows_can_be_picked_and_repeated() -> None:
    """A cache whose rows were moved goes on as one that was filled with them in that order."""
    ids, mask = batch("padded")
    for move, order in (
        (lambda c: c.batch_select_indices(torch.tensor([4, 0])), [4, 0]),
        (lambda c: c.batch_repeat_interleave(2), [i for i in range(6) for _ in range(2)]),
        (lambda c: c.reorder_cache(torch.tensor([5, 5, 1, 0, 2, 3])), [5, 5, 1, 0, 2, 3]),
    ):
        moved, fresh = (HybridCache(mask_at(0.5), WINDOW) for _ in range(2))
        with torch.no_grad():
            hybrid_model()(ids, attention_mask=mask, past_key_values=moved)
            hybrid_model()(ids[order], attention_mask=mask[order], past_key_values=fresh)
            move(moved)
            longer = torch.nn.functional.pad(mask[order], (0, 1), value=1)
            step = random_tokens(len(order), 1)
            logits = [
                hybrid_model()(step, attention_mask=longer, past_key_values=c).logits for c in (moved, fresh)
            ]
        torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-4)


def test_a_reset_cache_serves_another_batch() -> None:
    hybrid = HybridCache(mask_at(0.5), WINDOW)
    assert hybrid.nbytes() == 0
    generate(hybrid_model(), batch("long"), past_key_values=hybrid)
    hybrid.reset()
    assert (hybrid.nbytes(), hybrid.get_seq_length()) == (0, 0)
    kept = [t for layer in hybrid.layers for t in vars(layer).values() if isinstance(t, Tensor)]
    assert sum(t.nbytes for t in kept if t.is_floating_point()) == 0
    found = generate(hybrid_model(), batch("padded"), past_key_values=hybrid)
    assert torch.equal(found, reference_tokens("padded", 0.5))


def test_a_conversation_goes_on_in_its_cache() -> None:
    """A second call is given the whole row; its new tokens are a chunk over a window that has gone round."""
    ids, mask = batch("long")
    hybrid = HybridCache(mask_at(0.5), WINDOW)
    for _ in range(2):
        first = torch.cat([ids, generate(hybrid_model(), (ids, mask), past_key_values=hybrid)], dim=1)
        ids = torch.cat([first, random_tokens(1, 13, seed=5)], dim=1)
        mask = torch.ones_like(ids)
    found = generate(hybrid_model(), (ids, mask), past_key_values=hybrid)
    assert torch.equal(found, generate(reference_model(0.5), (ids, mask)))


@pytest.mark.parametrize(
    ("streaming", "message"),
    [
        (torch.zeros(3, 4, dtype=torch.bool), "the model has 2 KV heads, the mask is for 4$"),
        (torch.zeros(2, 2, dtype=torch.bool), "the model has 3 layers, the mask is for 2$"),
        (torch.zeros(4, 2, dtype=torch.bool), "the model has 3 layers, the mask is for 4$"),
        (torch.zeros(3, 2), r"the mask is torch.float32 \[3, 2\], expected torch.bool"),
        (torch.zeros(6, dtype=torch.bool), r"the mask is torch.bool \[6\], expected torch.bool \[num_layers"),
    ],
)
def test_a_mask_that_is_not_this_models_is_refused(streaming: Tensor, message: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^hybrid cache: {message}"):
        hybrid_model()(random_tokens(1, 5), past_key_values=HybridCache(streaming, WINDOW))


def test_calls_it_cannot_serve_are_refused() -> None:
    inputs = batch("long")
    hybrid = HybridCache(mask_at(0.5), WINDOW)
    for cache_given in ({}, {"past_key_values": DynamicCache()}, {"use_cache": False}):
        with pytest.raises(
            UnsupportedError, match=r"^hybrid attention: no HybridCache given, expected past_key"
        ):
            generate(hybrid_model(), inputs, **cache_given)
    with pytest.raises(UnsupportedError, match=r"^hybrid cache: found packed sequences \(cu_seq_lens_q\)"):
        cu_seq_lens = torch.tensor([0, 3, 8], dtype=torch.int32)
        hybrid_model()(random_tokens(1, 8), past_key_values=hybrid, cu_seq_lens_q=cu_seq_lens)
    with pytest.raises(UnsupportedError, match=r"^attention mask is a Tensor, expected a 2-D padding mask"):
        hybrid_model()(random_tokens(1, 8), attention_mask=torch.ones(1, 1, 8, 8), past_key_values=hybrid)
    with pytest.raises(UnsupportedError, match=r"^hybrid cache: cannot be cropped"):
        hybrid.crop(5)
    with pytest.raises(UnsupportedError, match=r"^hybrid cache: cannot be cropped"):
        generate(
            hybrid_model(),
            inputs,
            past_key_values=HybridCache(mask_at(0.5), WINDOW),
            prompt_lookup_num_tokens=3,  # assisted generation takes back what the model rejects
        )
