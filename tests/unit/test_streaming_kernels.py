"""The streaming kernels against a dense float64 reference, on the CPU through Triton's interpreter.

Triton decides at import whether to interpret, so the cases run in a process of their own: this file as a
program.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlkv.attention.fast import mixed_attention_fast
from rlkv.errors import UnsupportedError
from rlkv.window import Window

CASES = {
    "far queries in several chunks": (Window(20, 24), 130, None),
    "no sinks": (Window(0, 40), 60, None),
    "window longer than the row": (Window(64, 64), 33, None),
    "one token": (Window(4, 4), 1, None),
    "left padding": (Window(5, 20), 97, [[-1] * 37 + [37] * 60, [0] * 97]),
    "packed": (Window(9, 7), 120, [[0] * 3 + [3] * 10 + [13] * 75 + [88] * 32, [-1] * 32 + [32] * 88]),
    "one recent key": (Window(1, 1), 70, [[0] + [1] * 69]),
}


def reference(
    query: Tensor, key: Tensor, value: Tensor, gates: Tensor, window: Window, starts: Tensor
) -> Tensor:
    """Mixed attention by its definition; zero on padding."""
    group = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    index = torch.arange(query.shape[2])
    same = (starts[:, :, None] == starts[:, None, :]) & (starts >= 0)[:, :, None]
    causal = same & (index[:, None] >= index)
    position = index - starts
    recent = index[:, None] - index < window.recent_size
    stream = causal & ((position < window.sink_size)[:, None, :] | recent)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5

    def attend(mask: Tensor) -> Tensor:
        return scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1).nan_to_num(0.0) @ value

    gate = gates.repeat_interleave(group)[None, :, None, None]
    return gate * attend(causal) + (1 - gate) * attend(stream)


def check_case(window: Window, tokens: int, rows: list[list[int]] | None) -> None:
    """Forward and backward of one case in float32, with the full branch dense."""
    from rlkv.attention import streaming

    torch.manual_seed(0)
    starts = None if rows is None else torch.tensor(rows, dtype=torch.int32)
    batch, heads, kv_heads, dim = 1 if rows is None else len(rows), 4, 2, 16
    all_starts = torch.zeros(batch, tokens, dtype=torch.int32) if starts is None else starts
    query = torch.randn(batch, tokens, heads, dim).transpose(1, 2)
    key, value = (torch.randn(batch, kv_heads, tokens, dim) for _ in range(2))
    gates = torch.tensor([0.3, 0.8])
    grad_out = torch.randn(batch, heads, tokens, dim)
    weight = grad_out * (all_starts >= 0)[:, None, :, None]

    exact = [x.double().requires_grad_() for x in (query, key, value, gates)]
    expected = reference(*exact, window, all_starts)
    expected_grads = torch.autograd.grad((expected * weight).sum(), exact)

    ones = torch.ones(kv_heads, dtype=torch.float64)
    full = reference(*exact[:3], ones, window, all_starts)
    full_grads = torch.autograd.grad((full * weight).sum(), exact[:3])
    plan = streaming.TilePlan(*[streaming.Tile(32, 16, 4, 1)] * 2, streaming.Tile(16, 32, 4, 1), chunk=32)
    inputs = streaming.Inputs(query, key, value, gates, starts, window, dim**-0.5)
    out, saved = streaming.stream_and_mix(inputs, full.detach().float(), plan, save=True)
    grads = streaming.stream_and_mix_backward(
        grad_out, inputs, full.detach().float(), saved, tuple(x.float() for x in full_grads), plan
    )
    for name, found, wanted in zip(
        ("out", "dq", "dk", "dv", "dgates"), (out, *grads), (expected, *expected_grads), strict=True
    ):
        # The gates' gradient is exactly 0 where both branches see the same keys.
        error = (found.double() - wanted).norm() / wanted.norm().clamp_min(1.0)
        assert error < 1e-5, f"{name}: relative error {error:.2e}"


def test_fast_path_refuses_the_cpu() -> None:
    query = torch.zeros(1, 2, 4, 64)
    with pytest.raises(UnsupportedError, match="device is cpu, expected cuda"):
        mixed_attention_fast(query, query, query, torch.zeros(2), Window(1, 1), 0.125)


def test_kernels_match_the_reference() -> None:
    pytest.importorskip("triton")
    root = Path(__file__).parents[2]
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, __file__], check=False, env=env, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    for title, case in CASES.items():
        print(title, flush=True)
        check_case(*case)
