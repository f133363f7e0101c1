"""Mixed attention: the reference against a loop over the definition, the fused path against the reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from small_models import NUM_KV_HEADS, NUM_LAYERS, pad_left, random_tokens, small_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlkv.attention import (
    SequenceLayout,
    attach_gates,
    fast,
    full_branch,
    gate_parameters,
    mixed_attention,
    mixed_attention_reference,
    write_gates,
)
from rlkv.window import Window

HEADS, KV_HEADS, DIM, TOKENS = 6, 2, 8, 24
WINDOW = Window(2, 4)
SCALING = DIM**-0.5


class Case(NamedTuple):
    """Starts of the rows (None: one plain sequence each), queries of the pass, window."""

    starts: list[list[int]] | None = None
    query_length: int = TOKENS
    window: Window = WINDOW


CASES = {
    "plain": Case(),
    "no sinks, one recent key": Case(window=Window(0, 1)),
    "window longer than the row": Case(window=Window(20, 20)),
    "left padding": Case([[-1] * 9 + [9] * 15, [0] * 24]),
    "packed": Case([[0] * 10 + [10] + [11] * 13]),
    "chunk": Case(query_length=7),
    "chunk, left padding": Case([[-1] * 20 + [20] * 4, [-1] * 3 + [3] * 21], query_length=7),
    "decoding": Case(query_length=1),
    "decoding, left padding": Case([[-1] * 15 + [15] * 9, [0] * 24], query_length=1),
}


class Inputs(NamedTuple):
    query: Tensor
    key: Tensor
    value: Tensor
    gates: Tensor
    window: Window
    scaling: float
    layout: SequenceLayout


def build(case: Case, dtype: torch.dtype = torch.float64) -> Inputs:
    """Random inputs of a case; gates stay float32 or better, as on a model."""
    generator = torch.Generator().manual_seed(1)
    batch = 2 if case.starts is None else len(case.starts)
    starts = None if case.starts is None else torch.tensor(case.starts, dtype=torch.int32)

    def draw(heads: int, length: int) -> Tensor:
        return torch.randn(batch, heads, length, DIM, generator=generator, dtype=torch.float64).to(dtype)

    query, key, value = draw(HEADS, case.query_length), draw(KV_HEADS, TOKENS), draw(KV_HEADS, TOKENS)
    gates = torch.tensor([0.3, 0.85], dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    layout = SequenceLayout(case.query_length, TOKENS, starts, query.device)
    return Inputs(query, key, value, gates, case.window, SCALING, layout)


def real_queries(case: Case) -> Tensor:
    """bool [B, 1, Tq, 1]: the queries that are no padding."""
    starts = torch.tensor(case.starts or [[0] * TOKENS] * 2)
    return (starts >= 0)[:, None, -case.query_length :, None]


def naive_attention(query: Tensor, keys: Tensor, values: Tensor) -> list[float]:
    """One query over its keys, number by number."""
    scores = [math.fsum((query * key).tolist()) * SCALING for key in keys]
    weights = [math.exp(score - max(scores)) for score in scores]
    columns = range(values.shape[1])
    return [
        math.fsum(w * float(v[d]) for w, v in zip(weights, values, strict=True)) / math.fsum(weights)
        for d in columns
    ]


def naive_mixed(inputs: Inputs, case: Case) -> Tensor:
    """The definition, query by query; zero on padding."""
    query, key, value, gates = inputs[:4]
    out = torch.zeros_like(query)
    for b in range(query.shape[0]):
        starts = case.starts[b] if case.starts else [0] * TOKENS
        for row in range(case.query_length):
            i = TOKENS - case.query_length + row
            if starts[i] < 0:
                continue
            full = [j for j in range(i + 1) if starts[j] == starts[i]]
            sink, recent = case.window.sink_size, case.window.recent_size
            streaming = [j for j in full if j - starts[i] < sink or i - j < recent]
            for h in range(HEADS):
                kv = h // (HEADS // KV_HEADS)
                gate = float(gates[kv])
                parts = (
                    naive_attention(query[b, h, row], key[b, kv, s], value[b, kv, s])
                    for s in (full, streaming)
                )
                out[b, h, row] = torch.tensor(
                    [gate * f + (1 - gate) * s for f, s in zip(*parts, strict=True)], dtype=out.dtype
                )
    return out


@pytest.mark.parametrize("title", CASES)
def test_reference_is_the_definition(title: str) -> None:
    case = CASES[title]
    inputs = build(case)
    found = mixed_attention_reference(*inputs) * real_queries(case)
    torch.testing.assert_close(found, naive_mixed(inputs, case), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("title", CASES)
def test_fused_path_equals_the_reference_in_float32(title: str) -> None:
    case = CASES[title]
    real = real_queries(case)
    expected = mixed_attention_reference(*build(case)) * real
    found = mixed_attention(*build(case, torch.float32)) * real
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("title", CASES)
def test_fused_path_equals_the_reference_in_bfloat16(title: str) -> None:
    """Both see the same bfloat16 numbers, so that only the path's own roundings are left.

    With u = 2**-9, half a unit in the last of bfloat16's 8 bits, and V the largest value: kernels compute
    scores and sums in float32 but round the weights (at most u V, as they sum to one), then their output
    (u V); rounding the mix adds another u V.
    """
    case = CASES[title]
    inputs = build(case, torch.bfloat16)
    exact = inputs._replace(
        **{name: getattr(inputs, name).double() for name in ("query", "key", "value", "gates")}
    )
    real = real_queries(case)
    found = mixed_attention(*inputs) * real
    assert found.dtype == torch.bfloat16
    bound = 3 * 2**-9 * float(inputs.value.abs().max())
    assert (found.double() - mixed_attention_reference(*exact) * real).abs().max() <= bound


@pytest.mark.parametrize("title", CASES)
def test_no_not_a_number_anywhere(title: str) -> None:
    """Not on padding either: a NaN there would spread through the next layer's values."""
    for attention in (mixed_attention, mixed_attention_reference):
        for dtype in (torch.float32, torch.bfloat16):
            assert bool(attention(*build(CASES[title], dtype)).isfinite().all())


def finite_differences(function: Callable[[Tensor], Tensor], at: Tensor, step: float) -> Tensor:
    """Central differences of a scalar function, one entry at a time."""
    gradient = torch.zeros_like(at)
    for index in range(at.numel()):
        shift = torch.zeros_like(at).view(-1)
        shift[index] = step
        shift = shift.view_as(at)
        gradient.view(-1)[index] = (function(at + shift) - function(at - shift)).detach() / (2 * step)
    return gradient


def largest_relative_error(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).abs() / expected.abs()).max())


@pytest.mark.parametrize("attention", [mixed_attention_reference, mixed_attention])
@pytest.mark.parametrize("title", ["plain", "left padding", "packed", "chunk", "decoding"])
def test_gate_gradients_of_attention(attention: Callable[..., Tensor], title: str) -> None:
    case = CASES[title]
    inputs = build(case)
    torch.manual_seed(3)
    weight = torch.randn_like(inputs.query) * real_queries(case)

    def loss(gates: Tensor) -> Tensor:
        return (attention(*inputs._replace(gates=gates)).tanh() * weight).sum()

    gates = inputs.gates.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(gates), gates)
    assert largest_relative_error(gradient, finite_differences(loss, inputs.gates, 1e-4)) < 1e-6


def in_float64(model: PreTrainedModel) -> PreTrainedModel:
    """The model with every step in float64; transformers' norms go through float32, torch's do not."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                norm = nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(module, name, norm)
    return model.double()


def test_gate_gradients_of_a_model() -> None:
    model = small_model("qwen3")
    attach_gates(model, WINDOW)
    in_float64(model)
    ids, mask = pad_left([random_tokens(30), random_tokens(17, seed=1)])
    predicts = mask[:, :-1].bool() & mask[:, 1:].bool()

    def loss(gates: Tensor) -> Tensor:
        write_gates(model, gates)
        logits = model(ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        assert logits.dtype == torch.float64
        return -logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)[predicts].mean()

    gates = torch.rand(NUM_LAYERS, NUM_KV_HEADS, generator=torch.Generator().manual_seed(2)).double()
    gradient = torch.stack(torch.autograd.grad(loss(gates), gate_parameters(model)))
    with torch.no_grad():
        expected = finite_differences(loss, gates, 1e-4)
    assert expected.abs().min() > 1e-4  # every gate matters here
    assert largest_relative_error(gradient, expected) < 1e-6


@pytest.mark.parametrize("batch", [1, 2])
def test_packed_rows_are_cut_once_for_all_layers(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut waits for the GPU. Kernels are replaced here, the way to them is the real one."""
    cuts, calls = [], []
    cut = full_branch._cut_into_sequences

    def counted_cut(starts: Tensor) -> full_branch.Packing:
        cuts.append(cut(starts))
        return cuts[-1]

    def stand_in(query: Tensor, *rest: Any) -> Tensor:
        *inputs, starts = rest
        full_branch.packing_of(starts.contiguous())  # as ``fast.run`` does
        calls.append(starts.shape)
        return mixed_attention_reference(query, *inputs, SequenceLayout(20, 20, starts, starts.device))

    monkeypatch.setattr(full_branch, "_cut_into_sequences", counted_cut)
    monkeypatch.setattr(fast, "mixed_attention_fast", stand_in)
    model = small_model().train()
    attach_gates(model, WINDOW)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    ids, positions = random_tokens(batch, 20), torch.cat([torch.arange(12), torch.arange(8)])[None]
    expected = model(ids, position_ids=positions, use_cache=False).logits
    assert not calls
    monkeypatch.setattr(Tensor, "is_cuda", True)
    found = model(ids, position_ids=positions, use_cache=False).logits
    found.sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert calls == [(batch, 20)] * 2 * NUM_LAYERS, "forward, and again in the backward pass"
    assert [packing.cu_seqlens.tolist() for packing in cuts] == [[0, 12, 20, 32, 40][: 2 * batch + 1]]
