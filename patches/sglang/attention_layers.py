"""What a model's attention layers must be, looked at on the built model: its config need not say it."""

from __future__ import annotations

from typing import Any

from rlkv.errors import UnsupportedError

PLAIN = {
    "logit_cap": (0, "caps its logits"),
    "is_cross_attention": (False, "attends to another sequence"),
    "sliding_window_size": (-1, "has a window"),
    "xai_temperature_len": (-1, "scales its logits with the position"),
}
"""Attributes of SGLang's ``RadixAttention``: the value of plain attention, what a layer does with another."""


def check_layers(model: Any, num_layers: int) -> dict[int, str]:
    """Refuse a model whose layers are not one plain causal attention each.

    Args:
        model: of SGLang, built.
        num_layers: with heads of their own.

    Returns:
        The module's name of each layer's attention.

    Raises:
        UnsupportedError: one line that names the layer and what it does.
    """
    from sglang.srt.layers.radix_attention import AttentionType, RadixAttention

    layers = {name: m for name, m in model.named_modules() if isinstance(m, RadixAttention)}
    if sorted(layer.layer_id for layer in layers.values()) != list(range(num_layers)):
        raise UnsupportedError(
            f"{type(model).__name__}: found {len(layers)} attention layers, expected one in each of "
            f"{num_layers} layers"
        )
    for name, layer in layers.items():
        odd = [does for field, (plain, does) in PLAIN.items() if getattr(layer, field, plain) != plain]
        if layer.attn_type is not AttentionType.DECODER:
            odd.append(f"is {layer.attn_type.value}")
        if odd:
            raise UnsupportedError(
                f"{type(model).__name__}: {name} {odd[0]}, expected plain causal attention in every layer"
            )
    return {layer.layer_id: name for name, layer in layers.items()}
