"""Cases of the kernel of mixed attention against its definition.

On a CPU they need Triton's interpreter, which Triton decides at import: there this file runs as a program.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch

from rlkv.attention.layout import SequenceLayout
from rlkv.attention.mixed import mixed_attention_reference
from rlkv.window import Window

CASES = {
    "prompts cold and cached": (Window(4, 28), 2, 4, [(0, 70), (33, 5), (0, 1), (130, 90)]),
    "decoding": (Window(4, 28), 2, 4, [(0, 1), (3, 1), (31, 1), (32, 1), (200, 1)]),
    "decoding, two blocks of each kind": (Window(70, 100), 1, 7, [(20, 1), (90, 1), (400, 1)]),
    "training window": (Window(128, 256), 1, 2, [(0, 30), (300, 40)]),
    "no sinks, one query head": (Window(0, 1), 3, 1, [(0, 20), (5, 1)]),
}


def check_case(
    window: Window, heads: int, group: int, sequences: list[tuple[int, int]], device: str = "cpu"
) -> None:
    """Sequences of (cached, new) tokens; decoding is checked through both launches."""
    from rlkv_patches.sglang.mixed.kernels import mix_decode, mix_extend

    torch.manual_seed(0)
    dtype, dim = (torch.float32, 16) if device == "cpu" else (torch.bfloat16, 128)
    prefix, new = ([pair[i] for pair in sequences] for i in (0, 1))
    lengths = [a + b for a, b in sequences]
    count = sum(lengths)
    pool = tuple(torch.full((count + 5, heads, dim), torch.nan, dtype=dtype, device=device) for _ in "kv")
    slots = (torch.randperm(count + 4, device=device)[:count] + 1).int()
    for buffer in pool:  # slots that are nobody's stay NaN
        buffer[slots.long()] = torch.randn(count, heads, dim, dtype=dtype, device=device)
    width = heads * group * dim
    query = torch.randn(sum(new), 2 * width, dtype=dtype, device=device)[:, :width]
    gates = torch.rand(heads, device=device)

    def definition(gates: torch.Tensor) -> torch.Tensor:
        parts = []
        for q, s, n in zip(query.split(new), slots.split(lengths), new, strict=True):
            rows = q.view(n, heads * group, dim).transpose(0, 1)[None].double()
            key, value = (buffer[s.long()].transpose(0, 1)[None].double() for buffer in pool)
            layout = SequenceLayout(n, len(s), None, s.device)
            out = mixed_attention_reference(rows, key, value, gates.double(), window, dim**-0.5, layout)
            parts.append(out[0].transpose(0, 1).reshape(n, width))
        return torch.cat(parts)

    full, expected = definition(torch.ones_like(gates)), definition(gates)
    table = torch.zeros(len(new) + 1, max(lengths), dtype=torch.int32, device=device)
    for row, part in enumerate(slots.split(lengths)):
        table[row + 1, : len(part)] = part
    wide = {"device": device, "dtype": torch.int64}
    batch = SimpleNamespace(
        req_pool_indices=torch.arange(len(new), device=device) + 1,
        extend_seq_lens_cpu=new,
        extend_seq_lens=torch.tensor(new, **wide),
        extend_prefix_lens=torch.tensor(prefix, **wide),
        extend_start_loc=torch.tensor([sum(new[:i]) for i in range(len(new))], **wide),
    )
    tolerance = 1e-5 if device == "cpu" else 2e-2
    out = full.to(dtype)
    mix_extend(query, out, pool, gates, batch, table, window, dim**-0.5)
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=0)
    if max(new) == 1:
        indptr = torch.tensor([0, *lengths], device=device).cumsum(0).int()
        out = full.to(dtype)
        mix_decode(query, out, pool, gates, (indptr, slots), window, dim**-0.5)
        torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=0)


if __name__ == "__main__":
    for case in CASES.values():
        check_case(*case)
