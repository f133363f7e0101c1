"""Mixed attention: every head computes full and streaming attention and mixes them by its gate.

``out = gate * full + (1 - gate) * streaming``, one gate a KV head, shared by the query heads of its group
(arXiv 2510.08525, section 3). ``mixed_attention_reference`` is the definition in plain tensor operations;
``mixed_attention`` gives the same result through the fastest kernels that the input allows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rlkv.attention.layout import SequenceLayout
from rlkv.window import Window


def mixed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    gates: torch.Tensor,
    window: Window,
    scaling: float,
    layout: SequenceLayout,
) -> torch.Tensor:
    """Mixed attention through fused kernels.

    Whole sequences on a CUDA device take the path whose memory is linear in the sequence length; decoding
    steps and the CPU take dense masks, packed sequences there one after the other.

    Args:
        query: [B, Hq, Tq, D].
        key, value: [B, Hkv, Tk, D]; Hq is a multiple of Hkv.
        gates: float32 [Hkv], in [0, 1].
        window: what the streaming part sees.
        scaling: factor of the logits, usually D ** -0.5.
        layout: which sequence each of the Tk tokens belongs to.

    Returns:
        [B, Hq, Tq, D] in the dtype of ``query``.
    """
    if query.is_cuda and layout.query_length == layout.key_length > 1:
        # Imported here because it needs Triton, which CPU installations lack.
        from rlkv.attention.fast import mixed_attention_fast

        starts = layout.starts_of_rows(query.shape[0])
        return mixed_attention_fast(query, key, value, gates, window, scaling, starts)
    sequences = layout.sequences()
    if len(sequences) > 1:
        sizes = [each.query_length for each in sequences]
        parts = zip(*(x.split(sizes, dim=2) for x in (query, key, value)), sequences, strict=True)
        return torch.cat(
            [mixed_attention(q, k, v, gates, window, scaling, each) for q, k, v, each in parts], dim=2
        )
    full = grouped_attention(
        query, key, value, None if layout.is_plain_causal else layout.full_mask(), scaling
    )
    streaming = grouped_attention(query, key, value, layout.window_mask(window), scaling)
    return _mix(full, streaming, gates)


def grouped_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Scaled dot-product attention with grouped KV heads.

    Args:
        query: [B, Hq, Tq, D].
        key, value: [B, Hkv, Tk, D].
        mask: bool, broadcastable to [B, 1, Tq, Tk], True where visible; None means causal (Tq == Tk) or
            everything visible (Tq == 1).

    Returns:
        [B, Hq, Tq, D].
    """
    batch, num_heads, query_length, head_dim = query.shape
    num_kv_heads, group = key.shape[1], num_heads // key.shape[1]
    if query_length == 1:
        # A group's query heads become rows of one head, so the keys need no copy per query head.
        rows = query.reshape(batch, num_kv_heads, group, head_dim)
        out = F.scaled_dot_product_attention(rows, key, value, attn_mask=mask, scale=scaling)
        return out.reshape(batch, num_heads, 1, head_dim)
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling
    )


def mixed_attention_reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    gates: torch.Tensor,
    window: Window,
    scaling: float,
    layout: SequenceLayout,
) -> torch.Tensor:
    """The definition, step by step, in the dtype of its inputs; arguments as ``mixed_attention``."""
    group = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    scores = query @ key.transpose(-1, -2) * scaling
    full, streaming = (
        scores.masked_fill(~mask, -torch.inf).softmax(dim=-1) @ value
        for mask in (layout.full_mask(), layout.window_mask(window))
    )
    return _mix(full, streaming, gates)


def _mix(full: torch.Tensor, streaming: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """Interpolate [B, Hq, T, D] tensors by the gate of each head's group, in float32 or better."""
    gate = gates.repeat_interleave(full.shape[1] // gates.shape[0]).view(1, -1, 1, 1)
    return (gate * full + (1 - gate) * streaming).to(full.dtype)
