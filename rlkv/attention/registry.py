"""Our attention functions under their names in the transformers registries.

A model uses one after ``model.set_attn_implementation(NAME)``; its code stays as published. The mask function
registered under the same name hands every layer the pass's ``SequenceLayout`` in place of a mask tensor.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from rlkv.attention.layout import (
    SequenceLayout,
    starts_from_cu_seqlens,
    starts_from_padding,
    starts_from_position_ids,
)
from rlkv.attention.mixed import mixed_attention
from rlkv.errors import UnsupportedError
from rlkv.window import Window

MIXED = "rlkv_mixed"


def tokens_of_pass(given: int | torch.Tensor) -> int:
    """How many tokens a pass has; transformers below 5.4 gives their indices [Tq] in place of the number."""
    return len(given) if isinstance(given, torch.Tensor) else given


def layout_mask(
    *,
    kv_length: int,
    q_length: int | None = None,
    device: torch.device | None = None,
    cache_position: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    mask_function: Any = causal_mask_function,
    q_offset: int | torch.Tensor | None = None,
    **_: Any,
) -> SequenceLayout:
    """Build the layout of a pass; called by transformers once a forward pass, before the layers.

    Below 5.4 it gives ``cache_position`` in place of ``q_length``, ``q_offset`` and ``device``.

    Raises:
        UnsupportedError: the cache is static: it has room behind the tokens of the pass.
    """
    if cache_position is not None:
        q_length, device = tokens_of_pass(cache_position), cache_position.device
    if q_offset is not None and (there := int(q_offset) + int(cast(int, q_length))) < kv_length:
        raise UnsupportedError(
            f"the cache has room for {int(kv_length)} tokens where {there} are, expected one that grows: "
            "static caches are not supported, leave out cache_implementation"
        )
    starts = None if attention_mask is None else starts_from_padding(attention_mask[:, -kv_length:])
    # Another mask function means that transformers saw position ids start again within a row.
    packed = mask_function is not causal_mask_function
    length, device = int(cast(int, q_length)), cast(torch.device, device)
    return SequenceLayout(length, int(kv_length), starts, device, packed_by_position=packed)


def resolve_layout(attention_mask: Any, kwargs: dict[str, Any]) -> SequenceLayout:
    """The layout of a pass, with its rows cut into packed sequences where the caller says so.

    Raises:
        UnsupportedError: the caller passed a ready-made 4-D mask.
    """
    layout = attention_mask
    if not isinstance(layout, SequenceLayout):
        raise UnsupportedError(
            f"attention mask is a {type(layout).__name__}, expected a 2-D padding mask or none: "
            "ready-made 4-D masks say nothing of where a sequence starts"
        )
    if layout.starts is None and layout.query_length == layout.key_length:
        layout.starts = _packed_starts(layout, kwargs)
    return layout


def _packed_starts(layout: SequenceLayout, kwargs: dict[str, Any]) -> torch.Tensor | None:
    cu_seqlens = kwargs.get("cu_seq_lens_q")
    if cu_seqlens is not None:
        return starts_from_cu_seqlens(cu_seqlens.to(layout.device), layout.key_length)
    if layout.packed_by_position:
        return starts_from_position_ids(kwargs["position_ids"])
    return None


def mixed_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: SequenceLayout,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Mixed attention in the form that transformers calls; gates and window are on ``module``.

    Returns:
        [B, T, Hq, D] and no attention weights.
    """
    layout = resolve_layout(attention_mask, kwargs)
    gate, window = cast(torch.Tensor, module.gate), cast(Window, module.gate_window)
    # Gates are mixed in float32 at least, whatever an engine that trains in bf16 has made of them.
    gate = gate.to(torch.promote_types(gate.dtype, torch.float32))
    out = mixed_attention(query, key, value, gate, window, scaling, layout)
    return out.transpose(1, 2).contiguous(), None


def register() -> None:
    """Make the names known to transformers; safe to call again."""
    AttentionInterface.register(MIXED, mixed_attention_forward)
    AttentionMaskInterface.register(MIXED, layout_mask)
