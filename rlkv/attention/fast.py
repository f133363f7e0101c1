"""Mixed attention on CUDA, forward and backward, in memory linear in the number of tokens.

``out = gate * full + (1 - gate) * streaming``. The full branch is torch's fastest attention kernel. The
streaming branch is ours (``triton_streaming``): it mixes as it writes, and its backward scales and adds the
gradients of the full branch as it writes its own, so the gate costs no extra pass over memory.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlkv.attention.full_branch import FullKernel, Packing, choose_full_kernel, packing_of
from rlkv.errors import UnsupportedError
from rlkv.window import Window

HEAD_DIMS = (16, 32, 64, 128, 256)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def mixed_attention_fast(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gates: Tensor,
    window: Window,
    scaling: float,
    starts: Tensor | None = None,
) -> Tensor:
    """Mixed attention over whole sequences, differentiable in query, key, value and gates.

    Args:
        query: [B, Hq, T, D] on a CUDA device; bfloat16, float16 or float32.
        key, value: [B, Hkv, T, D]; Hq is a multiple of Hkv.
        gates: float32 [Hkv], in [0, 1].
        window: what the streaming part sees.
        scaling: factor of the logits, usually D ** -0.5; positive.
        starts: int32 [B, T], the row index of the first token of each token's own sequence, -1 on left
            padding; None when every row is one sequence that begins at index 0.

    Returns:
        [B, Hq, T, D] in the dtype of ``query``; zero on padding, which also contributes no gradient.

    Raises:
        UnsupportedError: a device, dtype or head size that the kernels do not take, or Triton is missing.
    """
    _check(query, key, gates, starts)
    return run(query, key, value, gates, window, scaling, starts)


def run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gates: Tensor,
    window: Window,
    scaling: float,
    starts: Tensor | None = None,
    full_kernel: FullKernel | None = None,
    plan: Any = None,
) -> Tensor:
    """``mixed_attention_fast`` without its checks, with a choice of kernel and tiles for the benchmark."""
    from rlkv.attention import streaming

    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    starts = None if starts is None else starts.contiguous()
    packing = None if starts is None else packing_of(starts)
    full_kernel = full_kernel or choose_full_kernel(query, packing)
    plan = plan or streaming.default_plan(query.dtype, query.shape[-1])
    with torch.cuda.device(query.device):
        needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value, gates))
        if needs_grad:
            return _MixedAttention.apply(
                query, key, value, gates, window, scaling, starts, packing, full_kernel, plan
            )
        full, _ = full_kernel.forward(query, key, value, scaling, packing)
        inputs = streaming.Inputs(query, key, value, gates, starts, window, scaling)
        return streaming.stream_and_mix(inputs, full, plan, save=False)[0]


class _MixedAttention(torch.autograd.Function):
    """Everything kept for the backward pass goes through ``save_for_backward``, as checkpointing requires."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        gates: Tensor,
        window: Window,
        scaling: float,
        starts: Tensor | None,
        packing: Packing | None,
        full_kernel: FullKernel,
        plan: Any,
    ) -> Tensor:
        from rlkv.attention import streaming

        full, full_saved = full_kernel.forward(query, key, value, scaling, packing)
        inputs = streaming.Inputs(query, key, value, gates, starts, window, scaling)
        out, saved = streaming.stream_and_mix(inputs, full, plan, save=True)
        cu_seqlens, ctx.longest = packing or (None, 0)
        ctx.save_for_backward(query, key, value, gates, starts, cu_seqlens, full, *saved, *full_saved)
        ctx.settings = (window, scaling, full_kernel, plan)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        from rlkv.attention import streaming

        query, key, value, gates, starts, cu_seqlens, full, output, logsumexp, *full_saved = ctx.saved_tensors
        window, scaling, full_kernel, plan = ctx.settings
        packing = None if cu_seqlens is None else Packing(cu_seqlens, ctx.longest)
        grad_out = grad_out if grad_out.stride(-1) == 1 else grad_out.contiguous()
        with torch.cuda.device(query.device):
            full_grads = full_kernel.backward(grad_out, query, key, value, full, full_saved, scaling, packing)
            inputs = streaming.Inputs(query, key, value, gates, starts, window, scaling)
            grads = streaming.stream_and_mix_backward(
                grad_out, inputs, full, streaming.Saved(output, logsumexp), full_grads, plan
            )
        return *grads, None, None, None, None, None, None


def _check(query: Tensor, key: Tensor, gates: Tensor, starts: Tensor | None) -> None:
    """Refuse what the kernels would compute wrongly or not at all."""
    head_dim = query.shape[-1]
    heads, kv_heads = query.shape[1], key.shape[1]
    expected = (
        (query.is_cuda, f"device is {query.device.type}, expected cuda"),
        (query.dtype in DTYPES, f"dtype is {query.dtype}, expected bfloat16, float16 or float32"),
        (head_dim in HEAD_DIMS, f"head_dim is {head_dim}, expected one of {HEAD_DIMS}"),
        (heads % kv_heads == 0, f"{heads} query heads, expected a multiple of the {kv_heads} KV heads"),
        (gates.shape == (kv_heads,), f"gates have shape {tuple(gates.shape)}, expected ({kv_heads},)"),
        (gates.dtype == torch.float32, f"gates are {gates.dtype}, expected float32"),
        (starts is None or starts.dtype == torch.int32, "starts are not int32"),
        (find_spec("triton") is not None, "Triton is not installed, and its kernels are needed"),
    )
    for holds, problem in expected:
        if not holds:
            raise UnsupportedError(f"mixed attention, fast path: {problem}")
