"""The hybrid cache on the shipped tiny reasoner: the mask reference's tokens, at half the bytes."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel

from rlkv.attention import attach_gates, write_gates
from rlkv.cache import HybridCache, use_hybrid_cache
from rlkv.generation import cache_bytes, chat_prompt
from rlkv.heads import random_mask, streaming_mask
from rlkv.models import resolve_model
from rlkv.tiny.problems import generate as problems
from rlkv.window import Window

MODEL = resolve_model("tiny-reasoner")
SHAPE = (8, 6)  # layers, KV heads
WINDOW = Window(4, 28)
NEW_TOKENS = 12
SPARSITIES = (0.0, 0.25, 0.5, 1.0)
CHUNKS = (17, 64, 300)  # shorter than the window, longer, and longer than most prompts
# Around one token, the recent tokens, the window and a full head's buffer; each a left-padded batch.
BATCHES = ((1, 2, 19, 28, 31, 32, 33, 64, 65, 127), (255, 350, 700))


@cache
def model(kind: str) -> PreTrainedModel:
    loaded = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    if kind == "hybrid":
        use_hybrid_cache(loaded)
    if kind == "reference":
        attach_gates(loaded, WINDOW)
    return loaded


@cache
def text(row: int) -> Tensor:
    """1,100 tokens of prompts and solutions, another text for every row."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    source = problems("easy", "test", seed=row)
    ids: list[int] = []
    while len(ids) < 1100:
        problem = next(source)
        ids += tokenizer(chat_prompt(tokenizer, problem.prompt) + problem.solution)["input_ids"]
    return torch.tensor(ids[:1100])


def rows_of(lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Input ids and attention mask of a left-padded batch; a row's text depends on its length alone."""
    width = max(lengths)
    ids = torch.stack([pad(text(n)[:n], (width - n, 0)) for n in lengths])
    mask = torch.stack([pad(torch.ones(n, dtype=torch.long), (width - n, 0)) for n in lengths])
    return ids, mask


@cache
def mask_at(sparsity: float) -> Tensor:
    gates = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    return streaming_mask(gates, sparsity)


def greedy(kind: str, lengths: tuple[int, ...], **options: object) -> Tensor:
    ids, mask = rows_of(lengths)
    tokens = model(kind).generate(
        ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, **options
    )
    return tokens[:, ids.shape[1] :]


@cache
def reference_tokens(lengths: tuple[int, ...], sparsity: float) -> Tensor:
    write_gates(model("reference"), (~mask_at(sparsity)).float())
    return greedy("reference", lengths)


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("lengths", BATCHES, ids=["lengths 1 to 127", "lengths 255 to 700"])
@pytest.mark.parametrize("chunk", CHUNKS)
def test_tokens_equal_the_mask_reference(lengths: tuple[int, ...], chunk: int, sparsity: float) -> None:
    hybrid = HybridCache(mask_at(sparsity), WINDOW)
    found = greedy("hybrid", lengths, past_key_values=hybrid, prefill_chunk_size=chunk)
    assert torch.equal(found, reference_tokens(lengths, sparsity))


@pytest.mark.parametrize("lengths", BATCHES, ids=["lengths 1 to 127", "lengths 255 to 700"])
def test_a_row_alone_equals_its_row_of_the_padded_reference(lengths: tuple[int, ...]) -> None:
    for length, expected in zip(lengths, reference_tokens(lengths, 0.5), strict=True):
        found = greedy("hybrid", (length,), past_key_values=HybridCache(mask_at(0.5), WINDOW))[0]
        assert torch.equal(pad(found, (0, len(expected) - len(found))), expected), length


@pytest.mark.parametrize("lengths", BATCHES, ids=["lengths 1 to 127", "lengths 255 to 700"])
def test_sparsity_0_is_the_stock_model_and_the_others_are_not(lengths: tuple[int, ...]) -> None:
    stock = greedy("stock", lengths, past_key_values=DynamicCache())
    assert torch.equal(reference_tokens(lengths, 0.0), stock)
    assert not any(torch.equal(reference_tokens(lengths, sparsity), stock) for sparsity in SPARSITIES[1:])


def test_half_the_heads_streaming_is_little_more_than_half_the_bytes() -> None:
    tokens = text(0)[:1024][None]
    full, half = DynamicCache(), HybridCache(random_mask(*SHAPE, 0.5, seed=0), WINDOW)
    with torch.inference_mode():
        model("stock")(tokens, past_key_values=full, logits_to_keep=1)
        model("hybrid")(tokens, past_key_values=half, logits_to_keep=1)
    num_layers, num_kv_heads = SHAPE
    assert (
        cache_bytes(full) == num_layers * num_kv_heads * 1024 * 64 * 2 * 4
    )  # head_dim, keys and values, float32
    tensors = [t for layer in half.layers for t in vars(layer).values() if isinstance(t, Tensor)]
    stored = sum(t.untyped_storage().nbytes() for t in tensors if t.is_floating_point())
    assert stored == half.nbytes()
    assert stored / cache_bytes(full) == pytest.approx(0.5 + 0.5 * WINDOW.size / 1024)
    assert stored / cache_bytes(full) <= 0.55
