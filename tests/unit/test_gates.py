"""Gates on small models of three families: what a model computes, and how gates are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import (
    FAMILIES,
    NUM_KV_HEADS,
    NUM_LAYERS,
    make_mask_reference,
    pad_left,
    random_tokens,
    small_model,
)
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, MistralConfig, PreTrainedModel

from rlkv.attention import (
    attach_gates,
    clamp_after_each_step,
    clamp_gates,
    fixed_gates,
    gate_parameters,
    load_gates,
    read_gates,
    save_gates,
    write_gates,
)
from rlkv.cache import use_hybrid_cache
from rlkv.errors import DataError, UnsupportedError
from rlkv.window import Window

WINDOW = Window(2, 5)
LENGTHS = (23, 1, 9, 16)

every_family = pytest.mark.parametrize("family", FAMILIES)


def random_gates(seed: int = 0) -> Tensor:
    return torch.rand(NUM_LAYERS, NUM_KV_HEADS, generator=torch.Generator().manual_seed(seed))


def gated_model(family: str, gates: Tensor | None = None) -> PreTrainedModel:
    model = small_model(family)
    attach_gates(model, WINDOW)
    write_gates(model, random_gates() if gates is None else gates)
    return model


def assert_near(found: Tensor, expected: Tensor) -> None:
    """Equal to 1e-5 of the logits' own size, which float32 reaches by any order of summing."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@every_family
def test_only_the_gates_learn(family: str) -> None:
    model = small_model(family)
    gates = attach_gates(model, WINDOW)
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert list(learning) == [f"model.layers.{i}.self_attn.gate" for i in range(NUM_LAYERS)]
    assert all(own is given for own, given in zip(learning.values(), gates, strict=True))
    assert {(p.dtype, tuple(p.shape)) for p in gates} == {(torch.float32, (NUM_KV_HEADS,))}
    assert read_gates(model).tolist() == [[1.0] * NUM_KV_HEADS] * NUM_LAYERS
    with torch.enable_grad():
        model(random_tokens(2, 20)).logits.square().mean().backward()
    assert all(bool((gate.grad != 0).all()) for gate in gates)
    assert all(p.grad is None for name, p in model.named_parameters() if name not in learning)


@every_family
def test_open_gates_are_the_stock_model(family: str) -> None:
    ids, mask = pad_left([random_tokens(n, seed=n) for n in LENGTHS])
    stock, gated = small_model(family), gated_model(family, torch.ones(NUM_LAYERS, NUM_KV_HEADS))
    found, expected = (model(ids, attention_mask=mask).logits for model in (gated, stock))
    assert_near(found[mask.bool()], expected[mask.bool()])
    tokens = [
        model.generate(ids, attention_mask=mask, max_new_tokens=20, do_sample=False)
        for model in (gated, stock)
    ]
    assert torch.equal(*tokens)


@every_family
def test_closed_gates_are_the_stock_model_under_the_window_mask(family: str) -> None:
    ids = random_tokens(2, 31)
    position = torch.arange(31)
    window_mask = WINDOW.visible(position[:, None], position)[None, None]
    expected = small_model(family)(ids, attention_mask=window_mask.expand(2, 1, -1, -1)).logits
    found = gated_model(family, torch.zeros(NUM_LAYERS, NUM_KV_HEADS))(ids).logits
    assert_near(found, expected)
    assert not torch.allclose(found, small_model(family)(ids).logits, atol=1e-2)


@every_family
def test_fixed_gates_are_gone_after_their_block(family: str) -> None:
    model, ids, gates = small_model(family), random_tokens(2, 31), random_gates()
    stock, before = model(ids).logits, model.config._attn_implementation
    with fixed_gates(model, gates, WINDOW):
        found = model(ids).logits
        with pytest.raises(UnsupportedError, match=f"^{family}: the model has gates, expected one without$"):
            fixed_gates(model, gates, WINDOW).__enter__()
    assert torch.equal(found, gated_model(family, gates)(ids).logits)
    assert torch.equal(model(ids).logits, stock) and not torch.equal(found, stock)
    assert model.config._attn_implementation == before
    assert all(p.requires_grad for p in model.parameters())
    assert not any(hasattr(module, "gate") for module in model.modules())


@every_family
def test_left_padding_changes_nothing(family: str) -> None:
    model = gated_model(family)
    rows = [random_tokens(n, seed=n) for n in LENGTHS]
    ids, mask = pad_left(rows)
    logits = model(ids, attention_mask=mask).logits
    for row, found in zip(rows, logits, strict=True):
        assert_near(found[-len(row) :], model(row[None]).logits[0])


@every_family
@pytest.mark.parametrize("told_by", ["cu_seq_lens", "position_ids", "cu_seq_lens and a mask of ones"])
def test_packing_changes_nothing(family: str, told_by: str) -> None:
    model = gated_model(family)
    rows = [random_tokens(n, seed=n) for n in LENGTHS]
    ids = torch.cat(rows)[None]
    lengths = torch.tensor((0, *LENGTHS))
    arguments = {"position_ids": torch.cat([torch.arange(n) for n in LENGTHS])[None], "use_cache": False}
    if told_by != "position_ids":
        cu_seq_lens = lengths.cumsum(0).int()
        arguments |= {
            "cu_seq_lens_q": cu_seq_lens,
            "cu_seq_lens_k": cu_seq_lens,
            "max_length_q": max(LENGTHS),
            "max_length_k": max(LENGTHS),
        }
    if told_by.endswith("ones"):
        arguments["attention_mask"] = torch.ones_like(ids)
    logits = model(ids, **arguments).logits[0]
    for row, found in zip(rows, logits.split(LENGTHS), strict=True):
        assert_near(found, model(row[None]).logits[0])


@every_family
@pytest.mark.parametrize("chunk", [1, 4, 11])
def test_cached_decoding_is_the_whole_sequence(family: str, chunk: int) -> None:
    model = gated_model(family)
    ids, mask = pad_left([random_tokens(n, seed=n) for n in LENGTHS])
    cache = DynamicCache()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    parts = [
        model(
            ids[:, begin : begin + chunk],
            attention_mask=mask[:, : begin + chunk],
            position_ids=positions[:, begin : begin + chunk],
            past_key_values=cache,
        ).logits
        for begin in range(0, ids.shape[1], chunk)
    ]
    expected = model(ids, attention_mask=mask, use_cache=False).logits
    assert_near(torch.cat(parts, dim=1)[mask.bool()], expected[mask.bool()])


def test_bfloat16_model_keeps_float32_gates_near_the_float32_result() -> None:
    ids = random_tokens(2, 40)
    exact = gated_model("qwen3")
    rounded = small_model("qwen3").bfloat16()
    gates = attach_gates(rounded, WINDOW)
    write_gates(rounded, random_gates())
    assert {gate.dtype for gate in gates} == {torch.float32}
    logits, expected = rounded(ids).logits, exact(ids).logits
    assert logits.dtype == torch.bfloat16
    # Rounding of weights and of every step: as far as the stock model moves when it is rounded, or half more.
    stock = small_model("qwen3")
    moved = (stock(ids).logits - small_model("qwen3").bfloat16()(ids).logits).norm()
    assert (logits.float() - expected).norm() < 1.5 * moved


def test_a_step_of_the_optimiser_ends_inside_zero_and_one() -> None:
    model = gated_model("llama", torch.full((NUM_LAYERS, NUM_KV_HEADS), 0.5))
    optimizer = torch.optim.SGD(gate_parameters(model), lr=1.0)
    handle = clamp_after_each_step(optimizer)
    gradients = torch.tensor([[3.0, -3.0], [0.25, -0.25], [0.5, 0.0]])
    for gate, gradient in zip(gate_parameters(model), gradients, strict=True):
        gate.grad = gradient
    optimizer.step()
    assert read_gates(model).tolist() == [[0.0, 1.0], [0.25, 0.75], [0.0, 0.5]]
    handle.remove()
    optimizer.step()
    assert read_gates(model).tolist() == [[-3.0, 4.0], [0.0, 1.0], [-0.5, 0.5]]
    clamp_gates(model)
    assert read_gates(model).tolist() == [[0.0, 1.0], [0.0, 1.0], [0.0, 0.5]]


def test_gates_are_saved_and_loaded_alone(tmp_path: Path) -> None:
    path = tmp_path / "gates.safetensors"
    model = gated_model("qwen2")
    save_gates(model, path)
    with safe_open(path, framework="pt") as file:
        assert sorted(file.keys()) == [f"model.layers.{i}.self_attn.gate" for i in range(NUM_LAYERS)]
    weights = {name: p.clone() for name, p in model.named_parameters() if not name.endswith("gate")}
    write_gates(model, torch.zeros(NUM_LAYERS, NUM_KV_HEADS))
    load_gates(model, path)
    assert torch.equal(read_gates(model), random_gates())
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters() if name in weights)


def test_layers_are_in_order_beyond_ten(tmp_path: Path) -> None:
    model = small_model("llama", num_hidden_layers=12)
    attach_gates(model, WINDOW)
    gates = torch.arange(24.0).view(12, 2) / 24
    write_gates(model, gates)
    save_gates(model, tmp_path / "gates.safetensors")
    write_gates(model, torch.zeros(12, 2))
    load_gates(model, tmp_path / "gates.safetensors")
    assert torch.equal(read_gates(model), gates)
    assert torch.equal(model.model.layers[10].self_attn.gate, gates[10])


def test_gates_of_another_model_are_refused(tmp_path: Path) -> None:
    path, model = tmp_path / "gates.safetensors", gated_model("llama")
    save_gates(model, path)
    name = "model.layers.0.self_attn.gate"

    other = small_model("llama", num_hidden_layers=2)
    attach_gates(other, WINDOW)
    with pytest.raises(DataError, match=rf"^{path}: holds 3 gates, expected 2 named like {name}$"):
        load_gates(other, path)

    other = small_model("llama", num_key_value_heads=4)
    attach_gates(other, WINDOW)
    with pytest.raises(DataError, match=rf"^{path}: {name} has shape \[2\], expected \[4\]$"):
        load_gates(other, path)

    save_file(load_file(path) | {name: torch.ones(3)}, path)
    with pytest.raises(DataError, match=rf"^{path}: {name} has shape \[3\], expected \[2\]$"):
        load_gates(model, path)
    assert torch.equal(read_gates(model), random_gates())  # a refused file changes nothing

    with pytest.raises(DataError, match=r"^gates: shape is \(2, 3\), expected \(3, 2\)$"):
        write_gates(model, torch.ones(2, 3))


SLIDING = {
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0},
}


@pytest.mark.parametrize("switch", [lambda model: attach_gates(model, WINDOW), use_hybrid_cache])
@pytest.mark.parametrize("family", [*SLIDING, "mistral"])
def test_a_model_with_windows_of_its_own_is_refused(
    family: str, switch: Callable[[PreTrainedModel], object]
) -> None:
    if family == "mistral":
        sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 32}
        config = MistralConfig(num_attention_heads=4, num_key_value_heads=2, sliding_window=8, **sizes)
        model = AutoModelForCausalLM.from_config(config)
    else:
        model = small_model(family, **SLIDING[family])
    attention = model.config._attn_implementation
    line = rf"^{family}: layer types are (full_attention, )?sliding_attention, expected full_attention only"
    with pytest.raises(UnsupportedError, match=line):
        switch(model)
    assert model.config._attn_implementation == attention
    assert all(p.requires_grad for p in model.parameters())


def test_mistral_without_a_window_is_welcome() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 97}
    config = MistralConfig(num_attention_heads=4, num_key_value_heads=2, sliding_window=None, **sizes)
    model = AutoModelForCausalLM.from_config(config).eval()
    expected = model(random_tokens(1, 20)).logits
    attach_gates(model, WINDOW)
    assert_near(model(random_tokens(1, 20)).logits, expected)


def test_ready_made_masks_are_refused() -> None:
    model = gated_model("qwen3")
    with pytest.raises(UnsupportedError, match="attention mask is a Tensor, expected a 2-D padding mask"):
        model(random_tokens(1, 6), attention_mask=torch.ones(1, 1, 6, 6, dtype=torch.bool))


def test_packing_over_several_rows_is_refused() -> None:
    model = gated_model("qwen3")
    with pytest.raises(UnsupportedError, match="cu_seq_lens_q ends at 12, expected at most 6"):
        model(random_tokens(2, 6), cu_seq_lens_q=torch.tensor([0, 6, 12], dtype=torch.int32), use_cache=False)


def test_gates_are_shared_by_the_query_heads_of_a_group() -> None:
    """The mask reference of one streaming head leaves the other head's queries alone."""
    streaming = torch.zeros(1, 2, dtype=torch.bool)
    streaming[0, 1] = True
    stock = small_model("llama", num_hidden_layers=1)
    outputs = {}
    for name, model in (
        ("stock", stock),
        ("gated", make_mask_reference(small_model("llama", num_hidden_layers=1), streaming, WINDOW)),
    ):
        model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(
            lambda module, args, name=name: outputs.update({name: args[0]})
        )
        model(random_tokens(1, 30))
    first, second = (outputs["stock"] - outputs["gated"]).abs().amax(dim=(0, 1)).view(4, 8).split(2)
    assert first.max() < 1e-5 and second.min() > 1e-3


@every_family
@pytest.mark.parametrize("prepare", [lambda model: attach_gates(model, WINDOW), use_hybrid_cache])
def test_a_static_cache_is_refused(family: str, prepare: Callable[[PreTrainedModel], object]) -> None:
    model = small_model(family)
    prepare(model)
    with pytest.raises(UnsupportedError, match=r"room for 13 tokens where 9 are.*leave out cache_implem"):
        model.generate(random_tokens(1, 9), max_new_tokens=5, cache_implementation="static")
