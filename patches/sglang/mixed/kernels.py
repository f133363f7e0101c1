"""The Triton kernel of mixed attention: the streaming part of every head, mixed into the full part.

One kernel serves decoding and prefill. A new token reads the keys of its window from the stock pool, through
the same table of slots as full attention does, and its output row is read, mixed and written in place.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from rlkv.window import Window

TILE_ROWS = 16
"""Fewest rows of a matrix product on the tensor cores."""

EXTEND_ROWS = 64
"""Rows (tokens times query heads of a group) of a tile of prefill."""

TILE_KEYS = 64
"""Keys of a tile."""


@triton.jit
def mix_window(
    query, out, keys, values, gates, slots, begins, prefix_lengths, new_lengths, first_tokens,
    query_stride, out_stride, slot_stride, row_stride, scale_log2,
    GROUP: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
    SINK: tl.constexpr, RECENT: tl.constexpr, BLOCK_K: tl.constexpr, DECODE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of new tokens of one sequence against their windows in one KV head.

    Grid: (cdiv(most new tokens, TOKENS), sequences, KV heads). ``query`` and ``out`` are [T, heads * D] with
    strides, ``keys`` and ``values`` [slots, KV heads, D]. The slots of a sequence begin at ``begins[s] *
    row_stride``. With DECODE every sequence has one new token and ends where the next begins; the three
    arrays of lengths are not read then. Row r of a tile is token r // GROUP, query head r % GROUP.
    """
    sequence = tl.program_id(1)
    head = tl.program_id(2)
    low_token = tl.program_id(0) * TOKENS
    begin = tl.load(begins + sequence).to(tl.int64) * row_stride
    if DECODE:
        new = 1
        prefix = (tl.load(begins + sequence + 1) - begin - 1).to(tl.int32)
        first_token = sequence.to(tl.int64)
    else:
        new = tl.load(new_lengths + sequence).to(tl.int32)
        prefix = tl.load(prefix_lengths + sequence).to(tl.int32)
        first_token = tl.load(first_tokens + sequence).to(tl.int64) + low_token
    if low_token >= new:
        return
    channel = tl.arange(0, D)[None, :]
    row = tl.arange(0, ROWS)
    real = (row < TOKENS * GROUP) & (low_token + row // GROUP < new)
    token = first_token + row // GROUP
    offset = ((head * GROUP + row % GROUP) * D)[:, None] + channel
    q = tl.load(query + token[:, None] * query_stride + offset, mask=real[:, None], other=0.0)
    position = prefix + low_token + row // GROUP
    last = prefix + tl.minimum(low_token + TOKENS, new)  # behind the last token of the block
    sink_blocks = tl.cdiv(tl.minimum(SINK, last), BLOCK_K)
    recent_low = tl.maximum(prefix + low_token - RECENT + 1, SINK)
    recent_blocks = tl.cdiv(tl.maximum(last - recent_low, 0), BLOCK_K)
    top = tl.full([ROWS], -1e30, tl.float32)  # finite: a block may hold nothing that a row sees
    total = tl.zeros([ROWS], tl.float32)
    streaming = tl.zeros([ROWS, D], tl.float32)
    for block in range(sink_blocks + recent_blocks):
        is_sink = block < sink_blocks
        low = tl.where(is_sink, block * BLOCK_K, recent_low + (block - sink_blocks) * BLOCK_K)
        key_position = low + tl.arange(0, BLOCK_K)
        there = key_position < tl.where(is_sink, tl.minimum(SINK, last), last)
        slot = tl.load(slots + begin + key_position, mask=there, other=0).to(tl.int64)
        read = (slot * slot_stride + head * D)[:, None] + channel
        k = tl.load(keys + read, mask=there[:, None], other=0.0)
        v = tl.load(values + read, mask=there[:, None], other=0.0)
        distance = position[:, None] - key_position[None, :]
        seen = there[None, :] & (distance >= 0) & ((key_position < SINK)[None, :] | (distance < RECENT))
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale_log2
        scores = tl.where(seen, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(weights, 1)
        streaming = tl.dot(weights.to(v.dtype), v, streaming * shrink[:, None], input_precision=PRECISION)
        top = new_top
    streaming = streaming / tl.maximum(total, 1e-30)[:, None]
    gate = tl.load(gates + head)
    at = out + token[:, None] * out_stride + offset
    full = tl.load(at, mask=real[:, None], other=0.0).to(tl.float32)
    mixed = gate * full + (1 - gate) * streaming
    tl.store(at, mixed.to(out.dtype.element_ty), mask=real[:, None])


def mix_decode(
    query: torch.Tensor,
    out: torch.Tensor,
    pool: tuple[torch.Tensor, torch.Tensor],
    gates: torch.Tensor,
    table: tuple[torch.Tensor, torch.Tensor],
    window: Window,
    scaling: float,
) -> None:
    """Mix one new token of every sequence in place.

    Args:
        query: [B, Hq * D]; rows may have a stride.
        out: [B, Hq * D] of full attention; becomes that of mixed attention.
        pool: keys and values, [slots, Hkv, D], the new ones among them.
        gates: float32 [Hkv].
        table: int32 [B + 1] and [tokens]: where the slots of each sequence begin, and the slots.
        window: of the streaming part.
        scaling: of the logits.
    """
    begins, slots = table
    unread = begins, begins, begins
    _launch(1, len(begins) - 1, query, out, pool, gates, (slots, begins, *unread), 1, window, scaling)


def mix_extend(
    query: torch.Tensor,
    out: torch.Tensor,
    pool: tuple[torch.Tensor, torch.Tensor],
    gates: torch.Tensor,
    batch: Any,
    req_to_token: torch.Tensor,
    window: Window,
    scaling: float,
) -> None:
    """Mix the new tokens of a prefill in place.

    Args:
        query, out, pool, gates, window, scaling: as in ``mix_decode``, [T, ...] for T new tokens.
        batch: SGLang's; its new tokens are in the pool already.
        req_to_token: [requests, context] slots.
    """
    lengths = batch.extend_prefix_lens, batch.extend_seq_lens, batch.extend_start_loc
    where = (req_to_token, batch.req_pool_indices, *lengths)
    most = max(batch.extend_seq_lens_cpu)
    stride = req_to_token.stride(0)
    _launch(most, len(batch.extend_seq_lens_cpu), query, out, pool, gates, where, stride, window, scaling)


def _launch(
    most_new: int,
    sequences: int,
    query: torch.Tensor,
    out: torch.Tensor,
    pool: tuple[torch.Tensor, torch.Tensor],
    gates: torch.Tensor,
    where: tuple[torch.Tensor, ...],
    row_stride: int,
    window: Window,
    scaling: float,
) -> None:
    keys, values = pool
    heads, head_dim = keys.shape[1:]
    group = query.shape[1] // (heads * head_dim)
    decode = row_stride == 1
    rows = max(TILE_ROWS if decode else EXTEND_ROWS, triton.next_power_of_2(group))
    tokens = 1 if decode else rows // group
    if not sequences:
        return
    mix_window[(triton.cdiv(most_new, tokens), sequences, heads)](
        query, out, keys, values, gates, *where,
        query.stride(0), out.stride(0), keys.stride(0), row_stride, scaling * math.log2(math.e),
        GROUP=group, TOKENS=tokens, ROWS=rows, D=head_dim,
        SINK=window.sink_size, RECENT=window.recent_size, BLOCK_K=TILE_KEYS, DECODE=decode,
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
    )  # fmt: skip
