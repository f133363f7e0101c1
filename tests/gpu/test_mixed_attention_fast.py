"""The fast path of mixed attention on a CUDA device, against the definition in float64."""

from __future__ import annotations

import pytest
import torch

from rlkv.attention.fast import mixed_attention_fast
from rlkv.attention.layout import SequenceLayout
from rlkv.attention.mixed import mixed_attention_reference
from rlkv.window import Window

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

PADDED = [[-1] * 300 + [300] * 724, [0] * 1024]
PACKED = [[0] * 7 + [7] * 600 + [607] * 417, [-1] * 130 + [130] * 500 + [630] * 394]
TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-3}


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(
    ("tokens", "head_dim", "dtype", "window", "rows"),
    [
        (1024, 128, torch.bfloat16, Window(128, 256), None),
        (1000, 64, torch.float16, Window(16, 64), None),
        (1024, 128, torch.bfloat16, Window(16, 64), PADDED),
        (1024, 64, torch.bfloat16, Window(128, 256), PACKED),
        (1024, 64, torch.float32, Window(16, 64), PACKED),
        (1000, 128, torch.float32, Window(5, 33), None),
        (1, 128, torch.bfloat16, Window(16, 64), None),
        (17, 64, torch.bfloat16, Window(0, 1), None),
    ],
)
def test_matches_the_definition(
    tokens: int, head_dim: int, dtype: torch.dtype, window: Window, rows: list | None
) -> None:
    torch.manual_seed(tokens + head_dim)
    batch, heads, kv_heads = 2, 8, 2
    starts = None if rows is None else torch.tensor(rows, dtype=torch.int32, device="cuda")

    def draw(num_heads: int) -> torch.Tensor:
        return torch.randn(batch, tokens, num_heads, head_dim, device="cuda", dtype=dtype).transpose(1, 2)

    inputs = [draw(heads), draw(kv_heads), draw(kv_heads), torch.rand(kv_heads, device="cuda")]
    inputs = [x.requires_grad_() for x in inputs]
    grad_out = draw(heads)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    layout = SequenceLayout(tokens, tokens, starts, grad_out.device)
    expected = mixed_attention_reference(*exact, window, head_dim**-0.5, layout)
    real = torch.ones_like(expected) if starts is None else (starts >= 0)[:, None, :, None]
    wanted = (expected * real, *torch.autograd.grad(expected, exact, grad_out.double() * real))

    out = mixed_attention_fast(*inputs, window, head_dim**-0.5, starts)
    found = (out, *torch.autograd.grad(out, inputs, grad_out))
    # A gate's gradient sums grad_out * (full - streaming), in which nearly equal terms cancel: its rounding
    # error grows with the terms, not with the sum.
    terms = (grad_out.double() * expected.detach()).norm()
    scales = [x.norm() for x in wanted[:4]] + [terms]
    names = ("out", "dq", "dk", "dv", "dgates")
    for name, one, other, scale in zip(names, found, wanted, scales, strict=True):
        # A single token has no choice of keys: its gradients of queries and keys are exactly 0.
        error = (one.double() - other).norm() / scale.clamp_min(1e-1)
        assert error < TOLERANCE[dtype], f"{name}: relative error {error:.2e}"


@pytest.mark.gpu
@needs_cuda
def test_no_grad_gives_the_same_output() -> None:
    inputs = [torch.randn(1, heads, 300, 64, device="cuda", dtype=torch.bfloat16) for heads in (4, 2, 2)]
    gates = torch.rand(2, device="cuda", requires_grad=True)
    with_grad = mixed_attention_fast(*inputs, gates, Window(16, 64), 0.125)
    with torch.no_grad():
        without = mixed_attention_fast(*inputs, gates, Window(16, 64), 0.125)
    assert torch.equal(with_grad, without)
