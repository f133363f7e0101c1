"""Launches of the streaming kernels: shapes, strides, tile sizes and the buffers between the passes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from rlkv.attention import triton_streaming as kernels
from rlkv.window import Window

LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class Tile:
    """Block sizes of one kernel, in tokens, and how Triton runs it."""

    block_queries: int
    block_keys: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class TilePlan:
    """Tiles of the three passes.

    Attributes:
        chunk: queries whose share of a sink's gradient is summed by one program; a multiple of the blocks of
            ``key_grad``, on which the split into near and far pairs relies.
    """

    forward: Tile
    query_grad: Tile
    key_grad: Tile
    chunk: int = 512

    def __post_init__(self) -> None:
        assert self.chunk % self.key_grad.block_queries == 0, "a chunk is whole blocks of queries"
        assert self.chunk % self.key_grad.block_keys == 0, "a block of keys lies in one chunk"


HALF_PRECISION_PLAN = TilePlan(Tile(64, 32, 4, 3), Tile(64, 64, 4, 2), Tile(32, 64, 4, 3))
WIDE_HEAD_PLAN = TilePlan(Tile(64, 32, 8, 2), Tile(64, 32, 8, 2), Tile(32, 64, 8, 1))
FLOAT32_PLAN = TilePlan(Tile(32, 32, 4, 1), Tile(32, 32, 4, 1), Tile(32, 32, 4, 1))


def default_plan(dtype: torch.dtype, head_dim: int) -> TilePlan:
    """Tiles measured best on an H200, or small ones that fit where speed was not measured."""
    if dtype == torch.float32:
        return FLOAT32_PLAN
    return HALF_PRECISION_PLAN if head_dim <= 128 else WIDE_HEAD_PLAN


class Inputs(NamedTuple):
    """What forward and backward share; shapes as in ``mixed_attention_fast``."""

    query: Tensor
    key: Tensor
    value: Tensor
    gates: Tensor
    starts: Tensor | None
    window: Window
    scaling: float

    @property
    def group(self) -> int:
        return self.query.shape[1] // self.key.shape[1]

    @property
    def sizes(self) -> tuple[int, int]:
        """Window sizes, at most the number of tokens so that they fit the kernels' int32."""
        tokens = self.query.shape[2]
        return min(self.window.sink_size, tokens), min(self.window.recent_size, tokens)

    @property
    def constants(self) -> dict[str, int | bool | str]:
        """Compile-time constants that all kernels take."""
        return {
            "GROUP": self.group,
            "D": self.query.shape[3],
            "HAS_STARTS": self.starts is not None,
            "PRECISION": "ieee" if self.query.dtype == torch.float32 else "tf32",
        }


class Saved(NamedTuple):
    """What the backward pass needs of the forward pass.

    Attributes:
        streaming: [B, Hq, T, D], output of the streaming branch.
        logsumexp: float32 [B, Hq, T], base 2.
    """

    streaming: Tensor
    logsumexp: Tensor


def stream_and_mix(inputs: Inputs, full: Tensor, plan: TilePlan, save: bool) -> tuple[Tensor, Saved | None]:
    """Streaming attention, mixed with the output of full attention.

    Args:
        full: [B, Hq, T, D], output of the full branch.
        save: whether a backward pass will follow.

    Returns:
        The mixed output, [B, Hq, T, D] with memory in the order B, T, Hq, D, and what ``save`` asked for.
    """
    query, key, value = inputs.query, inputs.key, inputs.value
    batch, heads, tokens, _ = query.shape
    out = _token_major_like(query)
    saved = None
    if save:
        logsumexp = torch.empty((batch, heads, tokens), dtype=torch.float32, device=query.device)
        saved = Saved(_token_major_like(query), logsumexp)
    streaming, logsumexp = saved or (out, None)
    tile = plan.forward
    kernels.stream_forward[(triton.cdiv(tokens, tile.block_queries), batch * heads)](
        query, key, value, full, inputs.gates, inputs.starts, out, streaming, logsumexp,
        *_strides(query, key, value, full, out, streaming),
        tokens, heads, *inputs.sizes, inputs.scaling * LOG2_E,
        **inputs.constants, SAVE=save, BLOCK_Q=tile.block_queries, BLOCK_K=tile.block_keys,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return out, saved


def stream_and_mix_backward(
    grad_out: Tensor,
    inputs: Inputs,
    full: Tensor,
    saved: Saved,
    full_grads: tuple[Tensor, ...],
    plan: TilePlan,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the mixed output.

    Args:
        grad_out: [B, Hq, T, D], last dimension contiguous.
        full_grads: gradients of the full branch for ``grad_out`` as it is; overwritten.

    Returns:
        Gradients of query, key, value and gates.
    """
    delta, grad_gates = launch_query_grad(grad_out, inputs, full, saved, full_grads[0], plan.query_grad)
    partial_sums = launch_sink_grad(grad_out, inputs, saved, delta, plan)
    launch_key_grad(grad_out, inputs, saved, delta, partial_sums, full_grads, plan)
    return *full_grads, grad_gates


def launch_query_grad(
    grad_out: Tensor, inputs: Inputs, full: Tensor, saved: Saved, grad_query: Tensor, tile: Tile
) -> tuple[Tensor, Tensor]:
    """Replace ``grad_query``; return delta, float32 [B, Hq, T], and the gradient of the gates."""
    query, key, value = inputs.query, inputs.key, inputs.value
    batch, heads, tokens, _ = query.shape
    blocks = triton.cdiv(tokens, tile.block_queries)
    delta = torch.empty_like(saved.logsumexp)
    gate_partial = torch.empty((batch, heads, blocks), dtype=torch.float32, device=query.device)
    kernels.query_grad[(blocks, batch * heads)](
        query, key, value, full, saved.streaming, grad_out, inputs.gates, inputs.starts, saved.logsumexp,
        delta, gate_partial, grad_query,
        *_strides(query, key, value, full, saved.streaming, grad_out, grad_query),
        tokens, heads, *inputs.sizes, inputs.scaling, inputs.scaling * LOG2_E,
        **inputs.constants, BLOCK_Q=tile.block_queries, BLOCK_K=tile.block_keys,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return delta, gate_partial.unflatten(1, (-1, inputs.group)).sum(dim=(0, 2, 3))


def launch_sink_grad(
    grad_out: Tensor, inputs: Inputs, saved: Saved, delta: Tensor, plan: TilePlan
) -> tuple[Tensor, Tensor]:
    """Partial dk and dv of the sinks from far queries, float32 [B * Hkv, chunks, sink_size, D] each."""
    query, key, value = inputs.query, inputs.key, inputs.value
    batch, kv_heads, tokens, head_dim = key.shape
    sink_size, recent_size = inputs.sizes
    chunks = triton.cdiv(tokens, plan.chunk)
    has_far_queries = sink_size > 0 and (chunks - 1) * plan.chunk >= sink_size + recent_size
    shape = (batch * kv_heads, chunks, sink_size, head_dim) if has_far_queries else (0,)
    partial_key, partial_value = torch.empty((2, *shape), dtype=torch.float32, device=query.device)
    tile = plan.key_grad
    block_keys = min(tile.block_keys, max(16, triton.next_power_of_2(sink_size)))
    if has_far_queries:
        kernels.sink_grad[(batch * kv_heads, chunks, triton.cdiv(sink_size, block_keys))](
            query, key, value, grad_out, inputs.starts, saved.logsumexp, delta, partial_key, partial_value,
            *_strides(query, key, value, grad_out),
            tokens, kv_heads, sink_size, recent_size, inputs.scaling * LOG2_E,
            **inputs.constants, BLOCK_Q=tile.block_queries, BLOCK_K=block_keys, CHUNK=plan.chunk,
            num_warps=tile.num_warps, num_stages=tile.num_stages,
        )  # fmt: skip
    return partial_key, partial_value


def launch_key_grad(
    grad_out: Tensor,
    inputs: Inputs,
    saved: Saved,
    delta: Tensor,
    partial_sums: tuple[Tensor, Tensor],
    full_grads: tuple[Tensor, ...],
    plan: TilePlan,
) -> None:
    """Replace the gradients of key and value in ``full_grads``."""
    query, key, value = inputs.query, inputs.key, inputs.value
    batch, kv_heads, tokens, _ = key.shape
    _, grad_key, grad_value = full_grads
    tile = plan.key_grad
    kernels.key_grad[(batch * kv_heads, triton.cdiv(tokens, tile.block_keys))](
        query, key, value, grad_out, inputs.gates, inputs.starts, saved.logsumexp, delta, *partial_sums,
        grad_key, grad_value,
        *_strides(query, key, value, grad_out, grad_key, grad_value),
        tokens, kv_heads, *inputs.sizes, inputs.scaling, inputs.scaling * LOG2_E,
        triton.cdiv(tokens, plan.chunk),
        **inputs.constants, BLOCK_Q=tile.block_queries, BLOCK_K=tile.block_keys, CHUNK=plan.chunk,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip


def _token_major_like(x: Tensor) -> Tensor:
    """Empty [B, H, T, D] in memory order B, T, H, D, which the output projection reads without a copy."""
    batch, heads, tokens, head_dim = x.shape
    return x.new_empty((batch, tokens, heads, head_dim)).transpose(1, 2)


def _strides(*tensors: Tensor) -> list[int]:
    """Strides of B, H and T of each tensor."""
    return [stride for x in tensors for stride in x.stride()[:3]]
