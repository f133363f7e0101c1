"""Cases of the kernels over the two pools against the window's definition.

On a CPU they need Triton's interpreter, which Triton decides at import: there this file runs as a program.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import torch
from rlkv_patches.sglang.head_pool import HeadPool
from torch import Tensor

from rlkv.window import Window

D = 16
SEVEN = [True, False, True, True, False, False, True]
CASES = {
    "mixed heads": (Window(16, 64), SEVEN, 4, [[300], [70, 1, 90], [1], [79, 2]]),
    "no full heads": (Window(4, 28), [True, True], 2, [[40, 5], [3]]),
    "no streaming heads": (Window(4, 28), [False, False, False], 2, [[33, 3]]),
    "no sinks, group of seven": (Window(0, 5), [True, False], 7, [[30, 3], [2]]),
    "sinks longer than recent, one query head": (Window(70, 1), [False, True], 1, [[200, 3]]),
    "two key blocks in decoding": (Window(100, 90), [True], 3, [[250], [120, 80]]),
}


class Sequences:
    """Sequences that grow in two pools, and the definition of their attention.

    Slots are random, and window slots that no token can see any more are given to nobody: reading one would
    give a NaN.
    """

    def __init__(self, window: Window, mask: list[bool], group: int, lengths: list[int], device: str) -> None:
        from rlkv_patches.sglang.hybrid_launch import LayerHeads

        self.window, self.group, self.heads = window, group, len(mask)
        slots = sum(lengths) + 1
        streaming = torch.tensor(mask)
        pools = [
            HeadPool(
                [kind.nonzero().flatten()], slots, D if device == "cpu" else 64, self.dtype(device), device
            )
            for kind in (~streaming, streaming)
        ]
        for pool in pools:
            pool.keys[0].fill_(torch.nan)
            pool.values[0].fill_(torch.nan)
        self.layer = LayerHeads.of(0, *pools, group)
        self.streaming = streaming
        self.device = device
        self.dim = self.layer.head_dim
        self.req_to_token = torch.zeros(len(lengths) + 1, max(lengths) + 3, dtype=torch.int32, device=device)
        order = torch.randperm(slots - 1, device=device).to(torch.int32) + 1
        for row, part in enumerate(order.split(lengths)):
            self.req_to_token[row + 1, : len(part)] = part
        self.mapping = torch.cat([torch.zeros(1), torch.randperm(slots - 1) + 1]).long().to(device)
        self.length = [0] * len(lengths)
        self.keys = [
            torch.empty(self.heads, n, self.dim, dtype=self.dtype(device), device=device) for n in lengths
        ]
        self.values = [torch.empty_like(k) for k in self.keys]

    @staticmethod
    def dtype(device: str) -> torch.dtype:
        return torch.float32 if device == "cpu" else torch.bfloat16

    def extend(self, new: list[int]) -> tuple[Tensor, Tensor]:
        """Bring new tokens to every sequence: the layer's output of the kernels, and the definition's."""
        from rlkv_patches.sglang import hybrid_launch

        prefix = list(self.length)
        self.length = [a + b for a, b in zip(prefix, new, strict=True)]
        q, k, v = self._draw(sum(new))
        batch = self._batch(prefix, new)
        slots = batch.out_cache_loc
        gathered = hybrid_launch.write(self.layer, q, k, v, slots, self.mapping[slots])
        full_heads = (~self.streaming).nonzero().flatten().to(self.device)
        rows = q.view(len(q), self.heads, self.group, self.dim)
        assert torch.equal(gathered, rows[:, full_heads].flatten(1, 2))
        where = self.req_to_token, self.mapping
        decoding = all(n == 1 for n in new) and all(prefix)
        out = torch.full_like(q, torch.nan).contiguous()
        table = torch.empty(len(new) + 1, self.window.size, dtype=torch.int32, device=self.device)
        if decoding:
            window_slots = torch.full((len(new) + 1,), 99, device=self.device)
            hybrid_launch.look_up_windows(table, window_slots, self.window, batch, *where)
            assert torch.equal(window_slots, torch.cat([self.mapping[slots], self.mapping[:1]]))
        # Stands where FlashInfer does: the next kernel may begin before the last of these has ended.
        expected, full_out = self._definition(q, k, v, prefix, new)
        full = full_out if len(full_heads) else None
        scaling = self.dim**-0.5
        if decoding:
            if self.layer.num_streaming:
                hybrid_launch.decode(self.layer, q, out, table[:-1], scaling, beside=full is not None)
            if full is not None:
                hybrid_launch.copy_full(self.layer, full, out)
        else:
            hybrid_launch.prefill(self.layer, q, out, full, self.window, batch, *where, scaling)
        self._forget()
        return out, expected

    def _draw(self, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value as views of one row each, as a fused projection gives them."""
        widths = [self.heads * self.group * self.dim, self.heads * self.dim, self.heads * self.dim]
        row = torch.randn(tokens, sum(widths), dtype=self.dtype(self.device), device=self.device)
        query, key, value = row.split(widths, dim=1)
        return query, key, value

    def _batch(self, prefix: list[int], new: list[int]) -> SimpleNamespace:
        rows = torch.arange(len(new), device=self.device) + 1
        slots = [
            self.req_to_token[i + 1, p : p + n] for i, (p, n) in enumerate(zip(prefix, new, strict=True))
        ]
        as_tensor = {"device": self.device, "dtype": torch.int64}
        return SimpleNamespace(
            batch_size=len(new),
            req_pool_indices=torch.cat([rows, rows[:1] * 0]),
            seq_lens=torch.tensor([*self.length, 1], **as_tensor),
            out_cache_loc=torch.cat(slots).long(),
            extend_seq_lens_cpu=new,
            extend_seq_lens=torch.tensor(new, **as_tensor),
            extend_prefix_lens=torch.tensor(prefix, **as_tensor),
            extend_start_loc=torch.tensor([sum(new[:i]) for i in range(len(new))], **as_tensor),
        )

    def _definition(
        self, q: Tensor, k: Tensor, v: Tensor, prefix: list[int], new: list[int]
    ) -> tuple[Tensor, Tensor]:
        """By rlkv.window: [T, Hq * D] of all heads, and [T, full * G, D] of the full ones."""
        parts = []
        for i, (q_i, k_i, v_i) in enumerate(zip(*(x.split(new) for x in (q, k, v)), strict=True)):
            end = prefix[i] + new[i]
            for kept, x in ((self.keys[i], k_i), (self.values[i], v_i)):
                kept[:, prefix[i] : end] = x.view(new[i], self.heads, self.dim).transpose(0, 1)
            position = torch.arange(end, device=self.device)
            query_position = position[prefix[i] :, None]
            causal = position <= query_position
            visible = self.window.visible(query_position, position)
            mask = torch.where(self.streaming.to(self.device)[:, None, None], visible, causal)
            grouped = q_i.view(new[i], self.heads, self.group, self.dim).double()
            keys, values = (x[i][:, :end].double() for x in (self.keys, self.values))
            scores = torch.einsum("thgd,hkd->hgtk", grouped, keys) * self.dim**-0.5
            weights = scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
            parts.append(torch.einsum("hgtk,hkd->thgd", weights, values))
        grouped = torch.cat(parts)
        expected = grouped.flatten(1, 2)
        full_heads = (~self.streaming).nonzero().flatten().to(self.device)
        return expected.flatten(1), grouped[:, full_heads].flatten(1, 2).to(q.dtype).contiguous()

    def _forget(self) -> None:
        """Window slots behind every window are poisoned."""
        if not self.layer.num_streaming:
            return
        for i, length in enumerate(self.length):
            gone_at = length - self.window.recent_size + 1
            position = torch.arange(self.window.sink_size, max(self.window.sink_size, gone_at))
            gone = self.mapping[self.req_to_token[i + 1, position.to(self.device)].long()]
            self.layer.window_keys[gone] = torch.nan
            self.layer.window_values[gone] = torch.nan


def check_case(
    window: Window, mask: list[bool], group: int, chunks: list[list[int]], device: str = "cpu"
) -> None:
    """Sequences that come in chunks of their own sizes, then three decoded tokens."""
    torch.manual_seed(0)
    steps = max(map(len, chunks))
    lengths = [sum(sizes) + 3 for sizes in chunks]
    sequences = Sequences(window, mask, group, lengths, device)
    for step in range(steps + 3):
        # A sequence whose prompt is done rests until all are.
        new = (
            [1] * len(chunks)
            if step >= steps
            else [sizes[step] if step < len(sizes) else 0 for sizes in chunks]
        )
        out, expected = sequences.extend(new)
        error = (out.double() - expected).abs().max().item()
        assert error < (1e-5 if device == "cpu" else 2e-2), f"step {step}: error {error:.1e}"


if __name__ == "__main__":
    check_case(*CASES[sys.argv[1]])
