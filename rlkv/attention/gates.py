"""Gates on a transformers model: one learnable scalar per KV head, everything else frozen.

Works on any causal language model whose attention goes through transformers' attention registry and whose
layers all attend fully (Llama, Qwen2, Qwen3, ...). The gates are ordinary parameters named
``model.layers.N.self_attn.gate``, float32, shape [num_kv_heads].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from rlkv.attention import registry
from rlkv.errors import DataError, UnsupportedError
from rlkv.window import Window


def attention_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The self-attention modules in layer order.

    Raises:
        UnsupportedError: the model has layers with a window of their own, or attention of another kind.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or [_kind_of_all_layers(config)])
    if kinds != {"full_attention"}:
        raise UnsupportedError(
            f"{config.model_type}: layer types are {', '.join(sorted(kinds))}, expected full_attention only: "
            "a layer that already has a window gains nothing from gates"
        )
    found = [m for m in model.modules() if hasattr(m, "k_proj") and hasattr(m, "layer_idx")]
    if len(found) != config.num_hidden_layers:
        raise UnsupportedError(
            f"{config.model_type}: found {len(found)} attention modules with a k_proj, expected one for each "
            f"of {config.num_hidden_layers} layers"
        )
    return sorted(found, key=lambda module: cast(int, module.layer_idx))


def _kind_of_all_layers(config: PretrainedConfig) -> str:
    """Layer type of a model whose config lists none; Mistral's has one window for all layers instead."""
    return "full_attention" if getattr(config, "sliding_window", None) is None else "sliding_attention"


def attach_gates(model: PreTrainedModel, window: Window, init: float = 1.0) -> list[nn.Parameter]:
    """Switch a model to mixed attention with one gate per KV head and freeze everything else.

    Args:
        model: changed in place.
        window: window of the streaming part.
        init: first value of every gate (1.0 in the paper: start from the full model).

    Returns:
        The gates, one float32 parameter of shape [num_kv_heads] per layer.

    Raises:
        UnsupportedError: the model's attention cannot be mixed.
    """
    registry.register()
    modules = attention_modules(model)
    model.requires_grad_(False)
    num_kv_heads = model.config.get_text_config().num_key_value_heads
    for module in modules:
        device = next(module.parameters()).device
        module.gate = nn.Parameter(torch.full((num_kv_heads,), float(init), device=device))
        module.gate_window = cast(Any, window)
    model.set_attn_implementation(registry.MIXED)
    return gate_parameters(model)


@contextmanager
def fixed_gates(model: PreTrainedModel, gates: torch.Tensor, window: Window) -> Iterator[None]:
    """Mixed attention with gates that nobody trains, for as long as the block runs; then all is as before.

    Args:
        model: one without gates.
        gates: [num_layers, num_kv_heads] in [0, 1]. With 0 and 1 alone it is the mask that a hybrid cache
            with the same window stands for.
        window: window of the streaming part.

    Raises:
        UnsupportedError: the model has gates, or its attention cannot be mixed.
        DataError: gates of a model with another number of layers.
    """
    registry.register()
    modules = attention_modules(model)
    if any(hasattr(module, "gate") for module in modules):
        raise UnsupportedError(f"{model.config.model_type}: the model has gates, expected one without")
    if len(gates) != len(modules):
        raise DataError(f"gates: found {len(gates)} layers, expected {len(modules)}")
    before = model.config._attn_implementation
    try:
        for module, row in zip(modules, gates, strict=True):
            module.gate = row.to(next(module.parameters()).device, torch.float32)
            module.gate_window = cast(Any, window)
        model.set_attn_implementation(registry.MIXED)
        yield
    finally:
        model.set_attn_implementation(before)
        for module in modules:
            del module.gate, module.gate_window


def gate_parameters(model: PreTrainedModel) -> list[nn.Parameter]:
    """The gates in layer order.

    Raises:
        UnsupportedError: the model has none.
    """
    modules = attention_modules(model)
    if not hasattr(modules[0], "gate"):
        raise UnsupportedError(f"{model.config.model_type}: found no gates, expected attach_gates before")
    return [cast(nn.Parameter, module.gate) for module in modules]


def read_gates(model: PreTrainedModel) -> torch.Tensor:
    """A copy of the gates: float32 [num_layers, num_kv_heads] on the CPU."""
    return torch.stack([gate.detach().float().cpu() for gate in gate_parameters(model)])


@torch.no_grad()
def write_gates(model: PreTrainedModel, gates: torch.Tensor) -> None:
    """Set the gates from a tensor of shape [num_layers, num_kv_heads]."""
    parameters = gate_parameters(model)
    expected = (len(parameters), parameters[0].shape[0])
    if tuple(gates.shape) != expected:
        raise DataError(f"gates: shape is {tuple(gates.shape)}, expected {expected}")
    for parameter, row in zip(parameters, gates, strict=True):
        parameter.copy_(row)


def clamp_gates(model: PreTrainedModel) -> None:
    """Bring every gate back into [0, 1]."""
    _clamp(gate_parameters(model))


def clamp_after_each_step(optimizer: torch.optim.Optimizer) -> Any:
    """Clamp everything an optimiser owns to [0, 1] after each of its steps; returns the hook's handle."""

    def clamp(stepped: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        for group in stepped.param_groups:
            _clamp(group["params"])

    return optimizer.register_step_post_hook(clamp)


@torch.no_grad()
def _clamp(gates: Iterable[torch.Tensor]) -> None:
    for gate in gates:
        gate.clamp_(0.0, 1.0)


def save_gates(model: PreTrainedModel, path: Path) -> None:
    """Write the gates alone as safetensors, under their parameter names."""
    save_file({name: p.detach().cpu().contiguous() for name, p in named_gates(model).items()}, path)


def load_gates(model: PreTrainedModel, path: Path) -> None:
    """Read gates written by ``save_gates``.

    Raises:
        DataError: the file's names or shapes are not this model's.
    """
    stored, own = load_file(path), named_gates(model)
    if stored.keys() != own.keys():
        raise DataError(
            f"{path}: holds {len(stored)} gates, expected {len(own)} named like {next(iter(own))}"
        )
    for name, gate in own.items():
        if stored[name].shape != gate.shape:
            raise DataError(
                f"{path}: {name} has shape {list(stored[name].shape)}, expected {list(gate.shape)}"
            )
    write_gates(model, torch.stack([stored[name] for name in own]))


def named_gates(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The gates in layer order under their parameter names."""
    ids = {id(gate) for gate in gate_parameters(model)}
    return {name: p for name, p in model.named_parameters() if id(p) in ids}
