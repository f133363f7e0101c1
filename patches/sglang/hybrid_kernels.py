"""Triton kernels over the two pools: writing, looking up window slots, and attention of streaming heads.

``place[h]`` says where KV head h of a layer is stored: at ``place`` in the full pool, or, where it is
negative, at ``-1 - place`` in the window pool. A slot that is -1 holds nothing.

FlashInfer's output rows of the full heads are dense, those of the layer are not: ``prefill_window`` also
copies them. In decoding, where ``decode_window`` runs beside FlashInfer, ``copy_full`` does when both have
ended.

OVERLAP is CUDA's programmatic dependent launch: a kernel is placed while the one before it still runs, and
``gdc_wait`` is where it waits for that one to end. FlashInfer's kernels do the same.
"""

from __future__ import annotations

import triton
import triton.language as tl

COUNTS = ["num_full", "num_streaming", "num_rows"]
"""Head counts differ from layer to layer: a specialised binary for each of them would be compiled anew."""


@triton.jit(do_not_specialize=COUNTS)
def write_heads(
    query, key, value, full_query, full_keys, full_values, window_keys, window_values,
    place, full_slots, window_slots, query_stride, key_stride, value_stride, num_full, num_streaming,
    HEADS: tl.constexpr, HEADS_PAD: tl.constexpr, GROUP: tl.constexpr, QUERIES_PAD: tl.constexpr,
    D: tl.constexpr, GATHER: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Store one token's keys and values by head in both pools; gather its full heads' queries.

    Grid: (tokens,). Query, key and value are [T, heads * D] with a stride between tokens; ``full_query`` is
    [T, num_full * GROUP, D], written if GATHER.
    """
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    token = tl.program_id(0).to(tl.int64)
    channels = tl.arange(0, D)
    heads = tl.arange(0, HEADS_PAD)
    at = tl.load(place + heads, mask=heads < HEADS, other=0)
    full = (heads < HEADS) & (at >= 0)
    streaming = (heads < HEADS) & (at < 0)
    read = heads[:, None] * D + channels[None, :]
    k = tl.load(key + token * key_stride + read, mask=(heads < HEADS)[:, None], other=0.0)
    v = tl.load(value + token * value_stride + read, mask=(heads < HEADS)[:, None], other=0.0)
    slot = tl.load(full_slots + token).to(tl.int64)
    to = slot * num_full * D + at[:, None] * D + channels[None, :]
    tl.store(full_keys + to, k, mask=full[:, None])
    tl.store(full_values + to, v, mask=full[:, None])
    slot = tl.load(window_slots + token).to(tl.int64)
    to = slot * num_streaming * D + (-1 - at)[:, None] * D + channels[None, :]
    tl.store(window_keys + to, k, mask=streaming[:, None])
    tl.store(window_values + to, v, mask=streaming[:, None])
    if GATHER:
        rows = tl.arange(0, QUERIES_PAD)
        at = tl.load(place + rows // GROUP, mask=rows < HEADS * GROUP, other=-1)
        full = (at >= 0)[:, None]
        q = tl.load(
            query + token * query_stride + rows[:, None] * D + channels[None, :], mask=full, other=0.0
        )
        to = token * num_full * GROUP * D + (at * GROUP + rows % GROUP)[:, None] * D + channels[None, :]
        tl.store(full_query + to, q, mask=full)


@triton.jit(do_not_specialize=["num_tokens"])
def look_up_windows(
    table, window_slots, req_to_token, mapping, rows, lengths, full_slots, req_stride, num_tokens,
    SINK: tl.constexpr, RECENT: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Window slots that the last token of every sequence sees, and those of the tokens to be written.

    Grid: (sequences,). ``table`` is [sequences, SINK + RECENT] int32: the sinks, then the recent tokens,
    oldest first, -1 where there is none. ``window_slots`` is [sequences]; behind ``num_tokens`` it is 0,
    nobody's slot, where padding writes.
    """
    sequence = tl.program_id(0)
    length = tl.load(lengths + sequence)
    row = req_to_token + tl.load(rows + sequence).to(tl.int64) * req_stride
    column = tl.arange(0, COLUMNS)
    recent = length - RECENT + column - SINK
    position = tl.where(column < SINK, column, recent)
    there = tl.where(column < SINK, column < length, (recent >= SINK) & (column < SINK + RECENT))
    slot = tl.load(row + position, mask=there, other=0)
    found = tl.load(mapping + slot, mask=there, other=-1)
    tl.store(table + sequence * (SINK + RECENT) + column, found.to(tl.int32), mask=column < SINK + RECENT)
    new = tl.load(full_slots + sequence, mask=sequence < num_tokens, other=0)
    tl.store(window_slots + sequence, tl.load(mapping + new))


@triton.jit
def _copy_head(
    full_out, out, first_token, num_tokens, full_head, head, num_full,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Put the output of one full head into the layer's output, for TOKENS tokens; ROWS >= TOKENS * GROUP."""
    row = tl.arange(0, ROWS)
    token = (first_token + row // GROUP).to(tl.int64)
    mask = (row < TOKENS * GROUP) & (row // GROUP < num_tokens)
    channel = tl.arange(0, D)[None, :]
    source = (token * num_full + full_head) * GROUP + row % GROUP
    target = (token * HEADS + head) * GROUP + row % GROUP
    values = tl.load(full_out + source[:, None] * D + channel, mask=mask[:, None], other=0.0)
    tl.store(out + target[:, None] * D + channel, values, mask=mask[:, None])


@triton.jit(do_not_specialize=COUNTS)
def copy_full(
    full_out, out, full_heads, num_full,
    HEADS: tl.constexpr, GROUP: tl.constexpr, QUERIES_PAD: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Put the outputs of all full heads into the layer's output, for one token. Grid: (tokens,)."""
    token = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, QUERIES_PAD)
    mask = row < num_full * GROUP
    head = tl.load(full_heads + row // GROUP, mask=mask, other=0)
    channel = tl.arange(0, D)[None, :]
    source = (token * num_full * GROUP + row)[:, None] * D + channel
    target = ((token * HEADS + head) * GROUP + row % GROUP)[:, None] * D + channel
    values = tl.load(full_out + source, mask=mask[:, None], other=0.0)
    tl.store(out + target, values, mask=mask[:, None])


@triton.jit(do_not_specialize=COUNTS)
def decode_window(
    query, out, window_keys, window_values, table, streaming_heads,
    query_stride, scale_log2, num_streaming,
    HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
    SLOTS: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """One token of one sequence against the window of one streaming head.

    Grid: (sequences, num_streaming). ``query`` is [B, HEADS * GROUP * D] with a stride, ``out`` the same
    without. SLOTS is the width of ``table``; ROWS >= GROUP rows go through the tensor cores.
    """
    sequence = tl.program_id(0).to(tl.int64)
    streaming = tl.program_id(1)
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
    head = tl.load(streaming_heads + streaming)
    channel = tl.arange(0, D)[None, :]
    row = tl.arange(0, ROWS)
    offset = ((head * GROUP + row) * D)[:, None] + channel
    q = tl.load(query + sequence * query_stride + offset, mask=(row < GROUP)[:, None], other=0.0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, D], tl.float32)
    for low in tl.static_range(0, SLOTS, BLOCK_K):
        column = low + tl.arange(0, BLOCK_K)
        slot = tl.load(table + sequence * SLOTS + column, mask=column < SLOTS, other=-1)
        there = slot >= 0
        read = ((slot.to(tl.int64) * num_streaming + streaming) * D)[:, None] + channel
        k = tl.load(window_keys + read, mask=there[:, None], other=0.0)
        v = tl.load(window_values + read, mask=there[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale_log2
        scores = tl.where(there[None, :], scores, float("-inf"))
        # A block of a short sequence may hold nothing; the finite floor keeps its weights at 0.
        new_top = tl.maximum(tl.maximum(top, tl.max(scores, 1)), -1e30)
        weights = tl.exp2(scores - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(weights, 1)
        mixed = tl.dot(weights.to(v.dtype), v, mixed * shrink[:, None], input_precision=PRECISION)
        top = new_top
    mixed = mixed / tl.maximum(total, 1e-30)[:, None]
    to = out + sequence * HEADS * GROUP * D + offset
    tl.store(to, mixed.to(out.dtype.element_ty), mask=(row < GROUP)[:, None])


@triton.jit(do_not_specialize=COUNTS)
def prefill_window(
    query, out, full_out, window_keys, window_values, req_to_token, mapping, streaming_heads, full_heads,
    rows, prefix_lengths, new_lengths, first_tokens, query_stride, req_stride, scale_log2,
    num_full, num_streaming,
    HEADS: tl.constexpr, GROUP: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
    SINK: tl.constexpr, RECENT: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of new tokens of one sequence against their windows in one streaming head, or a copy.

    Grid: (cdiv(most new tokens, TOKENS), sequences, num_streaming + heads to copy). Keys and values of the
    new tokens are in the pool already. ROWS >= TOKENS * GROUP; row r is token r // GROUP, query head
    r % GROUP of the KV head.
    """
    sequence = tl.program_id(1)
    streaming = tl.program_id(2)
    new = tl.load(new_lengths + sequence).to(tl.int32)
    begin = tl.program_id(0) * TOKENS
    if begin >= new:
        return
    first_token = (tl.load(first_tokens + sequence) + begin).to(tl.int64)
    if streaming >= num_streaming:
        full = streaming - num_streaming
        head = tl.load(full_heads + full)
        _copy_head(
            full_out, out, first_token, new - begin, full, head, num_full, TOKENS, HEADS, GROUP, ROWS, D
        )
        return
    head = tl.load(streaming_heads + streaming)
    channel = tl.arange(0, D)[None, :]
    row = tl.arange(0, ROWS)
    real = (row < TOKENS * GROUP) & (begin + row // GROUP < new)
    token = first_token + row // GROUP
    offset = ((head * GROUP + row % GROUP) * D)[:, None] + channel
    q = tl.load(query + token[:, None] * query_stride + offset, mask=real[:, None], other=0.0)
    prefix = tl.load(prefix_lengths + sequence).to(tl.int32)
    position = prefix + begin + row // GROUP
    last = prefix + tl.minimum(begin + TOKENS, new)  # behind the last token of the block
    req_row = req_to_token + tl.load(rows + sequence).to(tl.int64) * req_stride
    sink_blocks = tl.cdiv(tl.minimum(SINK, last), BLOCK_K)
    recent_low = tl.maximum(prefix + begin - RECENT + 1, SINK)
    recent_blocks = tl.cdiv(tl.maximum(last - recent_low, 0), BLOCK_K)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, D], tl.float32)
    for block in range(sink_blocks + recent_blocks):
        is_sink = block < sink_blocks
        low = tl.where(is_sink, block * BLOCK_K, recent_low + (block - sink_blocks) * BLOCK_K)
        key_position = low + tl.arange(0, BLOCK_K)
        there = key_position < tl.where(is_sink, tl.minimum(SINK, last), last)
        slot = tl.load(req_row + key_position, mask=there, other=0)
        slot = tl.load(mapping + slot, mask=there, other=0)
        read = ((slot.to(tl.int64) * num_streaming + streaming) * D)[:, None] + channel
        k = tl.load(window_keys + read, mask=there[:, None], other=0.0)
        v = tl.load(window_values + read, mask=there[:, None], other=0.0)
        distance = position[:, None] - key_position[None, :]
        seen = there[None, :] & (distance >= 0) & ((key_position < SINK)[None, :] | (distance < RECENT))
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale_log2
        scores = tl.where(seen, scores, float("-inf"))
        new_top = tl.maximum(tl.maximum(top, tl.max(scores, 1)), -1e30)
        weights = tl.exp2(scores - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(weights, 1)
        mixed = tl.dot(weights.to(v.dtype), v, mixed * shrink[:, None], input_precision=PRECISION)
        top = new_top
    mixed = mixed / tl.maximum(total, 1e-30)[:, None]
    to = out + token[:, None] * HEADS * GROUP * D + offset
    tl.store(to, mixed.to(out.dtype.element_ty), mask=real[:, None])
