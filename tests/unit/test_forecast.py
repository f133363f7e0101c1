"""The forecast against tensors counted on small models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from small_models import FAMILIES, random_tokens, small_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig

from rlkv.attention import attach_gates
from rlkv.train.config import from_preset
from rlkv.train.forecast import (
    DecoderShape,
    Pass,
    checkpoint_bytes,
    describe,
    gib,
    known_device,
    layer_bytes,
    mlp_bytes,
    norm_bytes,
    rollout_bytes,
    scoring_work,
    server_bytes,
    sharded_training_bytes,
    training_bytes,
    training_work,
    weight_bytes,
)
from rlkv.window import Window

TOKENS = 24
WORK = Pass(sequences=1, tokens=TOKENS, element_bytes=4, checkpointing=True)
WINDOW = Window(2, 5)


def saved_bytes(run: Callable[[], Any], parameters: set[int]) -> int:
    """Bytes of distinct tensors that ``run`` keeps for its backward pass, parameters left out."""
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage  # holding it keeps its address its own
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = run()
    assert alive is not None
    return sum(storage.nbytes() for storage in kept.values())


def storages(model: torch.nn.Module) -> set[int]:
    return {p.untyped_storage().data_ptr() for p in model.parameters()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_counted_to_the_byte(family: str, tied: bool) -> None:
    model = small_model(family, tie_word_embeddings=tied)
    assert weight_bytes(DecoderShape.of(model.config), 4) == sum(p.nbytes for p in model.parameters())


def test_experts_are_held_whole_and_used_in_part() -> None:
    config = Qwen3MoeConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=50,
        num_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
    )
    shape = DecoderShape.of(config)
    assert shape.parameters == sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    assert shape.matrix_parameters - shape.active_parameters == 2 * 4 * 3 * 32 * 16


def test_checkpoints_are_the_inputs_of_the_layers() -> None:
    model = small_model()
    attach_gates(model, WINDOW)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    ids = random_tokens(1, TOKENS)
    shape = DecoderShape.of(model.config)
    measured = saved_bytes(lambda: model.model(ids, use_cache=False).last_hidden_state, storages(model))
    # Beside the inputs: what the last norm keeps, and masks and rotations, which all layers share.
    beside = measured - checkpoint_bytes(shape, WORK)
    layer_input = checkpoint_bytes(shape, WORK) // shape.layers
    assert 0 <= beside < 4 * layer_input


@pytest.mark.parametrize("family", FAMILIES)
def test_mlp_and_norms_keep_what_is_said(family: str) -> None:
    model = small_model(family).requires_grad_(False)
    shape, layer = DecoderShape.of(model.config), model.model.layers[0]
    x = torch.randn(1, TOKENS, shape.hidden, requires_grad=True)
    assert saved_bytes(lambda: layer.mlp(x), storages(model)) == mlp_bytes(shape, WORK)
    width = 2 * shape.hidden + (shape.query_width + shape.kv_width if shape.qk_norm else 0)
    norm = saved_bytes(lambda: layer.input_layernorm(x), storages(model))
    assert norm_bytes(shape, WORK) == pytest.approx(norm * width / shape.hidden, rel=0.15)


def test_layers_without_checkpoints_keep_what_is_said() -> None:
    """Loosely: on a CPU attention repeats keys and builds masks, so the count is of the GPU's kernels."""
    model = small_model()
    attach_gates(model, WINDOW)
    ids = random_tokens(1, TOKENS)
    shape = DecoderShape.of(model.config)
    measured = saved_bytes(lambda: model.model(ids, use_cache=False).last_hidden_state, storages(model))
    assert measured == pytest.approx(shape.layers * layer_bytes(shape, WORK), rel=0.5)


def test_operations_are_those_that_torch_counts() -> None:
    model = small_model()
    attach_gates(model, WINDOW)
    ids = random_tokens(1, TOKENS)
    shape = DecoderShape.of(model.config)
    with FlopCounterMode(display=False) as counter:
        model(ids, use_cache=False).logits.sum().backward()
    counted = cast(Any, counter).get_flop_counts()["Global"]
    matrix = sum(n for operation, n in counted.items() if "attention" not in str(operation))
    plain = training_work(shape, WINDOW, Pass(1, TOKENS, 4, checkpointing=False))
    head = 2 * TOKENS * shape.hidden * shape.vocab
    # Only our head is computed twice, and the first layer's query, key and value pass no gradient on.
    first = 2 * TOKENS * shape.hidden * (shape.query_width + 2 * shape.kv_width)
    rotary_angles = TOKENS * shape.head_dim
    assert matrix == plain.matrix - head - first + rotary_angles


def qwen3_4b() -> DecoderShape:
    config = Qwen3Config(
        hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, vocab_size=151936, tie_word_embeddings=True,
    )  # fmt: skip
    return DecoderShape.of(config)


def test_operations_of_a_forward_pass_alone_are_those_that_torch_counts() -> None:
    model = small_model()
    attach_gates(model, WINDOW)
    shape = DecoderShape.of(model.config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(random_tokens(1, TOKENS), use_cache=False)
    counted = cast(Any, counter).get_flop_counts()["Global"]
    matrix = sum(n for operation, n in counted.items() if "attention" not in str(operation))
    assert matrix == scoring_work(shape, WINDOW, WORK).matrix + TOKENS * shape.head_dim  # rotary angles


def test_ranks_share_the_weights_out_and_hold_a_part_whole() -> None:
    shape, work = qwen3_4b(), Pass(2, 8192, 2, checkpointing=True)
    one, four = (sharded_training_bytes(shape, work, ranks) for ranks in (1, 4))
    assert one - four == pytest.approx(weight_bytes(shape, 2) * 3 / 4)
    assert weight_bytes(shape, 2) / 4 > one - training_bytes(shape, work) > shape.vocab * shape.hidden * 2


def test_tensor_parallel_servers_split_weights_and_kv_heads() -> None:
    shape = qwen3_4b()
    weights, held = server_bytes(shape, 128, 8192, 2, gpus=1)
    assert (weights, held) == (weight_bytes(shape, 2), 128 * 8192 * 2 * 36 * 8 * 128 * 2)
    assert server_bytes(shape, 128, 8192, 2, gpus=2) == (weights // 2, held // 2)
    # A KV head is not split: with more GPUs than heads each holds one.
    assert server_bytes(shape, 128, 8192, 2, gpus=16)[1] == held // 8


def test_long_responses_of_qwen3_4b() -> None:
    shape = qwen3_4b()
    assert shape.parameters == 4_022_468_096
    with_checkpoints, without = (Pass(1, 8192, 2, checkpointing=c) for c in (True, False))
    kept = training_bytes(shape, with_checkpoints) - weight_bytes(shape, 2)
    assert kept < training_bytes(shape, without) / 5
    doubled = Pass(2, 8192, 2, checkpointing=True)
    assert training_bytes(shape, doubled) < training_bytes(shape, with_checkpoints) + 2 * kept
    token = 2 * 8 * 128 * 2
    assert rollout_bytes(shape, 4, 8192, 2) == weight_bytes(shape, 2) + 37 * 4 * 8192 * token


def test_what_a_run_prints() -> None:
    shape = DecoderShape.of(small_model().config)
    config = from_preset("demo", prompts_per_step=2, group_size=4, micro_batch_size=4, max_new_tokens=32)
    work = Pass(4, 32, 2, checkpointing=False)
    lines = describe(config, shape, 2, "NVIDIA H200").splitlines()
    assert lines[0] == (
        f"forecast: {gib(training_bytes(shape, work))} GiB in a training pass of 4 x 32 tokens, "
        f"{gib(rollout_bytes(shape, 8, 32, 2))} GiB at the end of 8 rollouts, prompts not counted"
    )
    device = known_device("NVIDIA H200")
    assert device is not None
    seconds = 2 * training_work(shape, config.train_window, work).seconds(device)
    assert lines[1] == f"forecast: {seconds:.1f} s of training a step on NVIDIA H200, beside the rollouts"
    assert len(describe(config, shape, 2, "cpu").splitlines()) == 1


def test_devices() -> None:
    h200, h100 = known_device("NVIDIA H200"), known_device("NVIDIA H100 80GB HBM3")
    assert h200 and h100 and h200.flops == h100.flops and h200.bandwidth > h100.bandwidth
    assert known_device("cpu") is None
