"""The full branch: causal attention through torch's kernels, forward and backward as plain calls.

The autograd function of mixed attention calls these directly, so that the gate scales the gradients of the
full branch inside the streaming kernels, not in passes of its own over memory. Tensors are [B, H, T, D].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten

PADDING_RUN = 128
"""Longest run of padding that counts as one sequence: what padding costs stays linear in its length."""

SHORTEST_CUDNN = 128
"""Fewest tokens for which cuDNN is used; below, it gains nothing and its edge cases are less travelled."""

CAUSAL_FROM_TOP_LEFT = 1
"""``custom_mask_type`` of torch's memory-efficient kernels."""


class Packing(NamedTuple):
    """Rows of a batch laid end to end, cut into sequences.

    Attributes:
        cu_seqlens: int32 [N + 1], cumulative lengths; padding is cut into sequences of its own.
        longest: most tokens in one sequence.
    """

    cu_seqlens: Tensor
    longest: int


@dataclass(frozen=True)
class FullKernel:
    """One of torch's attention kernels.

    Attributes:
        name: what the benchmark calls it.
        forward: (query, key, value, scaling, packing) -> (out, tensors that ``backward`` needs).
        backward: (grad_out, query, key, value, out, saved, scaling, packing) -> (dq, dk, dv), shaped as
            query, key and value, in memory of their own.
    """

    name: str
    forward: Callable[..., tuple[Tensor, tuple[Tensor | None, ...]]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


def choose_full_kernel(query: Tensor, packing: Packing | None) -> FullKernel:
    """The fastest kernel that takes this dtype, layout and device."""
    if query.dtype == torch.float32:
        return EFFICIENT
    if packing is not None:
        return FLASH_PACKED
    tokens, head_dim = query.shape[-2:]
    is_hopper_or_later = torch.cuda.get_device_capability(query.device)[0] >= 9
    takes_cudnn = tokens >= SHORTEST_CUDNN and head_dim in (64, 128) and torch.backends.cudnn.is_available()
    return CUDNN if is_hopper_or_later and takes_cudnn else FLASH


_packings: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def packing_of(starts: Tensor) -> Packing:
    """Cut the rows of ``starts`` (int32 [B, T]) into sequences.

    Reads sizes back from the device, which waits for it; all layers of a pass share one ``starts``
    (``SequenceLayout.starts_of_rows``), so the answer is kept for as long as that tensor lives and is not
    written to.
    """
    version = None if starts.is_inference() else starts._version
    kept = _packings.get(starts)
    if kept is None or kept[0] != version:
        kept = (version, _cut_into_sequences(starts))
        _packings[starts] = kept
    return kept[1]


def _cut_into_sequences(starts: Tensor) -> Packing:
    index = torch.arange(starts.shape[1], device=starts.device)
    is_first = (starts < 0) & (index % PADDING_RUN == 0)
    is_first[:, 1:] |= starts[:, 1:] != starts[:, :-1]
    is_first[:, 0] = True
    cuts = is_first.flatten().nonzero().flatten()
    cu_seqlens = torch.cat([cuts, cuts.new_tensor([starts.numel()])]).int()
    return Packing(cu_seqlens, int(cu_seqlens.diff().max()))


def _cudnn_forward(query, key, value, scaling, packing):
    result = aten._scaled_dot_product_cudnn_attention(
        query, key, value, None, True, 0.0, True, False, scale=scaling
    )
    out, logsumexp, seed, offset = result[0], result[1], result[6], result[7]
    return out, (logsumexp, seed, offset)


def _cudnn_backward(grad_out, query, key, value, out, saved, scaling, packing):
    logsumexp, seed, offset = saved
    tokens = query.shape[2]
    return aten._scaled_dot_product_cudnn_attention_backward(
        grad_out, query, key, value, out, logsumexp, seed, offset, None, None, None, tokens, tokens,
        0.0, True, scale=scaling,
    )  # fmt: skip


def _flash_forward(query, key, value, scaling, packing):
    result = aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True, False, scale=scaling)
    out, logsumexp, rng_state, unused = result[0], result[1], result[6], result[7]
    return out, (logsumexp, rng_state, unused)


def _flash_backward(grad_out, query, key, value, out, saved, scaling, packing):
    logsumexp, rng_state, unused = saved
    tokens = query.shape[2]
    return aten._scaled_dot_product_flash_attention_backward(
        grad_out, query, key, value, out, logsumexp, None, None, tokens, tokens, 0.0, True, rng_state, unused,
        scale=scaling,
    )  # fmt: skip


def _lay_out(x: Tensor) -> Tensor:
    """[B, H, T, D] -> [B * T, H, D]; a view when memory is already in that order."""
    return x.transpose(1, 2).flatten(0, 1)


def _rows_of(x: Tensor, batch: int) -> Tensor:
    """[B * T, H, D] -> [B, H, T, D], a view."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


def _flash_packed_forward(query, key, value, scaling, packing):
    cu_seqlens, longest = packing
    out, logsumexp, rng_state, unused, _ = aten._flash_attention_forward(
        _lay_out(query), _lay_out(key), _lay_out(value), cu_seqlens, cu_seqlens, longest, longest,
        0.0, True, False, scale=scaling,
    )  # fmt: skip
    return _rows_of(out, query.shape[0]), (logsumexp, rng_state, unused)


def _flash_packed_backward(grad_out, query, key, value, out, saved, scaling, packing):
    logsumexp, rng_state, unused = saved
    cu_seqlens, longest = packing
    laid_out = (_lay_out(x) for x in (grad_out, query, key, value, out))
    grads = aten._flash_attention_backward(
        *laid_out, logsumexp, cu_seqlens, cu_seqlens, longest, longest, 0.0, True, rng_state, unused,
        scale=scaling,
    )  # fmt: skip
    return tuple(_rows_of(x, query.shape[0]) for x in grads)


def _token_major(x: Tensor, packing: Packing | None) -> Tensor:
    """[B, H, T, D] -> [B, T, H, D], or [1, B * T, H, D] when packed."""
    return x.transpose(1, 2) if packing is None else _lay_out(x).unsqueeze(0)


def _efficient_inputs(query, key, value, packing):
    """Token-major, with keys and values repeated for the heads of their group."""
    group = query.shape[1] // key.shape[1]
    heads = (query, key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1))
    return tuple(_token_major(x, packing) for x in heads)


def _efficient_forward(query, key, value, scaling, packing):
    cu_seqlens, longest = (None, query.shape[2]) if packing is None else packing
    out, logsumexp, seed, offset, _, _ = aten._efficient_attention_forward(
        *_efficient_inputs(query, key, value, packing),
        None, cu_seqlens, cu_seqlens, longest, longest, 0.0, CAUSAL_FROM_TOP_LEFT, True, scale=scaling,
    )  # fmt: skip
    return _rows_of(out.flatten(0, 1), query.shape[0]), (logsumexp, seed, offset)


def _efficient_backward(grad_out, query, key, value, out, saved, scaling, packing):
    logsumexp, seed, offset = saved
    cu_seqlens, longest = (None, query.shape[2]) if packing is None else packing
    dq, dk, dv, _ = aten._efficient_attention_backward(
        _token_major(grad_out, packing), *_efficient_inputs(query, key, value, packing),
        None, _token_major(out, packing), cu_seqlens, cu_seqlens, longest, longest, logsumexp,
        0.0, seed, offset, CAUSAL_FROM_TOP_LEFT, False, scale=scaling,
    )  # fmt: skip
    dq, dk, dv = (_rows_of(x.flatten(0, 1), query.shape[0]) for x in (dq, dk, dv))
    return dq, *(x.unflatten(1, (key.shape[1], -1)).sum(dim=2) for x in (dk, dv))


CUDNN = FullKernel("cudnn", _cudnn_forward, _cudnn_backward)
FLASH = FullKernel("flash", _flash_forward, _flash_backward)
FLASH_PACKED = FullKernel("flash-packed", _flash_packed_forward, _flash_packed_backward)
EFFICIENT = FullKernel("efficient", _efficient_forward, _efficient_backward)
