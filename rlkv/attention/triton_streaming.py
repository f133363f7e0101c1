"""Triton kernels of the streaming branch, with the gate's mixing in their prologues and epilogues.

Forward: one program per block of queries walks the sink keys, then the recent keys, and writes the mixed
output. Backward, in three launches: ``query_grad`` (one program per block of queries), ``sink_grad`` (sinks
against a chunk of far queries, into partial sums) and ``key_grad`` (one program per block of keys). There are
no atomics, so results are the same from run to run.

A pair (query i, key j) is *far* when j is a sink of the sequence that starts at s, and i >= far_start(s): the
first multiple of CHUNK that is at least s + sink_size + recent_size. Far pairs are always visible, and a
chunk of queries has far keys in one sequence at most, that of its first query, so they split easily.

Scores are kept in base 2 (logits * log2(e)), because the hardware's exponential is base 2.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load_tile(base, row_stride, first_row, num_rows, ROWS: tl.constexpr, D: tl.constexpr):
    """Rows [first_row, first_row + ROWS) of a [num_rows, D] matrix, zero behind its end."""
    rows = tl.arange(0, ROWS)
    base += first_row.to(tl.int64) * row_stride
    pointers = base + rows[:, None] * row_stride + tl.arange(0, D)[None, :]
    return tl.load(pointers, mask=(rows < num_rows - first_row)[:, None], other=0.0)


@triton.jit
def _store_tile(base, row_stride, first_row, num_rows, tile, ROWS: tl.constexpr, D: tl.constexpr):
    """Write rows [first_row, first_row + ROWS) of a [num_rows, D] matrix, in its dtype."""
    rows = tl.arange(0, ROWS)
    base += first_row.to(tl.int64) * row_stride
    pointers = base + rows[:, None] * row_stride + tl.arange(0, D)[None, :]
    tl.store(pointers, tile.to(base.dtype.element_ty), mask=(rows < num_rows - first_row)[:, None])


@triton.jit
def _query_starts(starts, index, num_tokens, HAS_STARTS: tl.constexpr):
    """Start of each query's sequence; num_tokens, which no key reaches, where there is no query."""
    if HAS_STARTS:
        start = tl.load(starts + index, mask=index < num_tokens, other=-1)
        return tl.where(start < 0, num_tokens, start)
    return tl.where(index < num_tokens, 0, num_tokens)


@triton.jit
def _token_start(starts, index, HAS_STARTS: tl.constexpr):
    """Start of one token's sequence, -1 on padding."""
    if HAS_STARTS:
        return tl.load(starts + index)
    return index * 0


@triton.jit
def _key_starts(starts, index, num_tokens, HAS_STARTS: tl.constexpr):
    """Start of each key's sequence, -1 where there is no key."""
    if HAS_STARTS:
        return tl.load(starts + index, mask=index < num_tokens, other=-1)
    return tl.where(index < num_tokens, 0, -1)


@triton.jit
def _far_start(start, sink_size, recent_size, CHUNK: tl.constexpr):
    """First query whose pairs with the sinks of the sequence at ``start`` are far."""
    return (start + sink_size + recent_size + CHUNK - 1) // CHUNK * CHUNK


@triton.jit
def _visible(query_index, query_start, key_index, reach, HAS_STARTS: tl.constexpr):
    """Window mask of broadcastable indices: a key is seen by ``reach`` (uint32) queries, itself the first."""
    # Unsigned, so that one comparison also refuses keys behind the query.
    seen = (query_index - key_index).to(tl.uint32) < reach
    if HAS_STARTS:
        seen = seen & (key_index >= query_start)
    return seen


@triton.jit
def _key_plan(
    starts, query_lo, num_tokens, sink_size, recent_size,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, HAS_STARTS: tl.constexpr,
):  # fmt: skip
    """Key blocks that a block of queries walks: num_sink of them from first on, num_recent from band_lo on.

    Only the sequence of the block's first token can have sinks before the recent range: others start later.
    """
    first = _token_start(starts, query_lo, HAS_STARTS)
    band_lo = tl.maximum(query_lo - recent_size + 1, 0)
    if HAS_STARTS:
        # With padding at query_lo, every sequence of the block starts inside it.
        band_lo = tl.maximum(band_lo, tl.where(first < 0, query_lo, first))
    band_lo = band_lo // BLOCK_K * BLOCK_K
    sink_hi = tl.where(first < 0, 0, tl.minimum(first + sink_size, band_lo))
    num_sink = tl.cdiv(tl.maximum(sink_hi - first, 0), BLOCK_K)
    num_sink = tl.where(first < 0, 0, num_sink)
    num_recent = tl.cdiv(tl.minimum(query_lo + BLOCK_Q, num_tokens) - band_lo, BLOCK_K)
    return first, sink_hi, band_lo, num_sink, num_recent


@triton.jit
def _key_block(
    step, starts, first, sink_hi, band_lo, num_sink, num_tokens, sink_size, recent_size,
    BLOCK_K: tl.constexpr, HAS_STARTS: tl.constexpr,
):  # fmt: skip
    """First key of a step of the plan, and its keys' indices and reach (how many queries see each)."""
    is_sink_step = step < num_sink
    key_lo = tl.where(is_sink_step, first + step * BLOCK_K, band_lo + (step - num_sink) * BLOCK_K)
    key_index = key_lo + tl.arange(0, BLOCK_K)
    key_start = _key_starts(starts, key_index, num_tokens, HAS_STARTS)
    reach = tl.where(key_index - key_start < sink_size, num_tokens, recent_size)
    # Sink steps stop where the recent range begins, so that no key counts twice.
    key_hi = tl.where(is_sink_step, sink_hi, num_tokens)
    reach = tl.where((key_start >= 0) & (key_index < key_hi), reach, 0)
    return key_lo, key_index, reach.to(tl.uint32)


@triton.jit
def stream_forward(
    query, key, value, full, gates, starts, out, streaming, logsumexp,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, f_b, f_h, f_t, o_b, o_h, o_t, s_b, s_h, s_t,
    num_tokens, num_heads, sink_size, recent_size, scale_log2,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    HAS_STARTS: tl.constexpr, SAVE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Streaming attention of one block of queries of one head, mixed with the full output.

    Writes ``out`` (mixed) and, when SAVE, ``streaming`` and ``logsumexp`` (float32 [B * Hq, T], base 2).
    Grid: (cdiv(T, BLOCK_Q), B * Hq).
    """
    row = tl.program_id(1).to(tl.int64)
    batch, head = row // num_heads, row % num_heads
    kv_head = head // GROUP
    query_lo = tl.program_id(0) * BLOCK_Q
    if HAS_STARTS:
        starts += batch * num_tokens
    query += batch * q_b + head * q_h
    key += batch * k_b + kv_head * k_h
    value += batch * v_b + kv_head * v_h
    full += batch * f_b + head * f_h
    streaming += batch * s_b + head * s_h
    out += batch * o_b + head * o_h

    index = query_lo + tl.arange(0, BLOCK_Q)
    query_start = _query_starts(starts, index, num_tokens, HAS_STARTS)
    q = _load_tile(query, q_t, query_lo, num_tokens, BLOCK_Q, D)

    first, sink_hi, band_lo, num_sink, num_recent = _key_plan(
        starts, query_lo, num_tokens, sink_size, recent_size, BLOCK_Q, BLOCK_K, HAS_STARTS
    )
    # Finite, so that a row that has seen no key yet gets exp2(-inf) = 0 and never inf - inf.
    maximum = tl.full([BLOCK_Q], -1.0e30, tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, D], tl.float32)
    for step in range(num_sink + num_recent):
        key_lo, key_index, reach = _key_block(
            step, starts, first, sink_hi, band_lo, num_sink, num_tokens, sink_size, recent_size,
            BLOCK_K, HAS_STARTS,
        )  # fmt: skip
        k = _load_tile(key, k_t, key_lo, num_tokens, BLOCK_K, D)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        seen = _visible(index[:, None], query_start[:, None], key_index[None, :], reach[None, :], HAS_STARTS)
        scores = tl.where(seen, scores * scale_log2, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, 1))
        p = tl.exp2(scores - new_maximum[:, None])
        decay = tl.exp2(maximum - new_maximum)
        total = total * decay + tl.sum(p, 1)
        v = _load_tile(value, v_t, key_lo, num_tokens, BLOCK_K, D)
        acc = tl.dot(p.to(v.dtype), v, acc * decay[:, None], input_precision=PRECISION)
        maximum = new_maximum

    valid = query_start < num_tokens
    total = tl.where(valid, total, 1.0)
    acc = tl.where(valid[:, None], acc / total[:, None], 0.0)
    if SAVE:
        # Infinite on padding, where the weights exp2(score - lse) must come out as zero.
        lse = tl.where(valid, maximum + tl.log2(total), float("inf"))
        tl.store(logsumexp + row * num_tokens + index, lse, mask=index < num_tokens)
        _store_tile(streaming, s_t, query_lo, num_tokens, acc, BLOCK_Q, D)
    gate = tl.load(gates + kv_head)
    full_out = _load_tile(full, f_t, query_lo, num_tokens, BLOCK_Q, D).to(tl.float32)
    mixed = gate * tl.where(valid[:, None], full_out, 0.0) + (1.0 - gate) * acc
    _store_tile(out, o_t, query_lo, num_tokens, mixed, BLOCK_Q, D)


@triton.jit
def query_grad(
    query, key, value, full, streaming, grad_out, gates, starts, logsumexp, delta, gate_partial, grad_query,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, f_b, f_h, f_t, s_b, s_h, s_t, g_b, g_h, g_t,
    dq_b, dq_h, dq_t,
    num_tokens, num_heads, sink_size, recent_size, scale, scale_log2,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    HAS_STARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of one block of queries of one head; also what the later kernels and the gate need of it.

    Writes ``delta`` (float32 [B * Hq, T], rowsum of grad_out * streaming) and ``gate_partial`` (float32
    [B * Hq, cdiv(T, BLOCK_Q)], sum of grad_out * (full - streaming)). ``grad_query`` holds the gradient of
    the full branch, for an ungated grad_out, and is replaced by that of the mix. Grid as ``stream_forward``.
    """
    row = tl.program_id(1).to(tl.int64)
    batch, head = row // num_heads, row % num_heads
    kv_head = head // GROUP
    query_lo = tl.program_id(0) * BLOCK_Q
    if HAS_STARTS:
        starts += batch * num_tokens
    query += batch * q_b + head * q_h
    key += batch * k_b + kv_head * k_h
    value += batch * v_b + kv_head * v_h
    full += batch * f_b + head * f_h
    streaming += batch * s_b + head * s_h
    grad_out += batch * g_b + head * g_h
    grad_query += batch * dq_b + head * dq_h
    logsumexp += row * num_tokens
    delta += row * num_tokens

    index = query_lo + tl.arange(0, BLOCK_Q)
    query_start = _query_starts(starts, index, num_tokens, HAS_STARTS)
    valid = query_start < num_tokens
    do = _load_tile(grad_out, g_t, query_lo, num_tokens, BLOCK_Q, D)
    streaming_out = _load_tile(streaming, s_t, query_lo, num_tokens, BLOCK_Q, D).to(tl.float32)
    row_delta = tl.sum(do.to(tl.float32) * streaming_out, 1)
    full_out = _load_tile(full, f_t, query_lo, num_tokens, BLOCK_Q, D).to(tl.float32)
    row_gate = tl.sum(do.to(tl.float32) * (full_out - streaming_out), 1)
    block_gate = tl.sum(tl.where(valid, row_gate, 0.0), 0)
    tl.store(gate_partial + row * tl.num_programs(0) + tl.program_id(0), block_gate)
    tl.store(delta + index, row_delta, mask=index < num_tokens)
    lse = tl.load(logsumexp + index, mask=index < num_tokens, other=float("inf"))
    q = _load_tile(query, q_t, query_lo, num_tokens, BLOCK_Q, D)

    first, sink_hi, band_lo, num_sink, num_recent = _key_plan(
        starts, query_lo, num_tokens, sink_size, recent_size, BLOCK_Q, BLOCK_K, HAS_STARTS
    )
    acc = tl.zeros([BLOCK_Q, D], tl.float32)
    for step in range(num_sink + num_recent):
        key_lo, key_index, reach = _key_block(
            step, starts, first, sink_hi, band_lo, num_sink, num_tokens, sink_size, recent_size,
            BLOCK_K, HAS_STARTS,
        )  # fmt: skip
        k = _load_tile(key, k_t, key_lo, num_tokens, BLOCK_K, D)
        v = _load_tile(value, v_t, key_lo, num_tokens, BLOCK_K, D)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
        seen = _visible(index[:, None], query_start[:, None], key_index[None, :], reach[None, :], HAS_STARTS)
        p = tl.where(seen, tl.exp2(scores * scale_log2 - lse[:, None]), 0.0)
        ds = p * (dp - row_delta[:, None])
        acc = tl.dot(ds.to(k.dtype), k, acc, input_precision=PRECISION)

    gate = tl.load(gates + kv_head)
    full_grad = _load_tile(grad_query, dq_t, query_lo, num_tokens, BLOCK_Q, D).to(tl.float32)
    mixed = gate * full_grad + (1.0 - gate) * scale * acc
    mixed = tl.where(valid[:, None], mixed, 0.0)
    _store_tile(grad_query, dq_t, query_lo, num_tokens, mixed, BLOCK_Q, D)


@triton.jit
def sink_grad(
    query, key, value, grad_out, starts, logsumexp, delta, partial_key, partial_value,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, g_b, g_h, g_t,
    num_tokens, num_kv_heads, sink_size, recent_size, scale_log2,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, CHUNK: tl.constexpr,
    HAS_STARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Unscaled streaming dk, dv of a block of sinks from one chunk of far queries, all heads of the group.

    Writes rows of ``partial_key`` and ``partial_value``: float32 [B * Hkv, cdiv(T, CHUNK), sink_size, D]. A
    chunk whose queries are far from no sink leaves its rows unwritten; ``key_grad`` does not read those.
    Grid: (B * Hkv, cdiv(T, CHUNK), cdiv(sink_size, BLOCK_K)).
    """
    row = tl.program_id(0).to(tl.int64)
    batch, kv_head = row // num_kv_heads, row % num_kv_heads
    chunk = tl.program_id(1)
    chunk_lo = chunk * CHUNK
    sink_lo = tl.program_id(2) * BLOCK_K
    if HAS_STARTS:
        starts += batch * num_tokens
    query += batch * q_b + kv_head * GROUP * q_h
    key += batch * k_b + kv_head * k_h
    value += batch * v_b + kv_head * v_h
    grad_out += batch * g_b + kv_head * GROUP * g_h
    logsumexp += row * GROUP * num_tokens
    delta += row * GROUP * num_tokens

    start = _token_start(starts, chunk_lo, HAS_STARTS)
    is_far = (start >= 0) & (chunk_lo >= _far_start(start, sink_size, recent_size, CHUNK))
    if is_far:
        key_lo = start + sink_lo
        k = _load_tile(key, k_t, key_lo, num_tokens, BLOCK_K, D)
        v = _load_tile(value, v_t, key_lo, num_tokens, BLOCK_K, D)
        blocks = tl.cdiv(tl.minimum(chunk_lo + CHUNK, num_tokens) - chunk_lo, BLOCK_Q)
        dk = tl.zeros([BLOCK_K, D], tl.float32)
        dv = tl.zeros([BLOCK_K, D], tl.float32)
        for step in range(GROUP * blocks):
            head = (step // blocks).to(tl.int64)
            query_lo = chunk_lo + step % blocks * BLOCK_Q
            index = query_lo + tl.arange(0, BLOCK_Q)
            q = _load_tile(query + head * q_h, q_t, query_lo, num_tokens, BLOCK_Q, D)
            do = _load_tile(grad_out + head * g_h, g_t, query_lo, num_tokens, BLOCK_Q, D)
            # Rows behind the last token and of other sequences get weight exp2(-inf) = 0: no mask needed.
            lse = tl.load(logsumexp + head * num_tokens + index, mask=index < num_tokens, other=float("inf"))
            if HAS_STARTS:
                query_start = tl.load(starts + index, mask=index < num_tokens, other=-1)
                lse = tl.where(query_start == start, lse, float("inf"))
            row_delta = tl.load(delta + head * num_tokens + index, mask=index < num_tokens, other=0.0)
            scores = tl.dot(k, tl.trans(q), input_precision=PRECISION)
            p = tl.exp2(scores * scale_log2 - lse[None, :])
            dv = tl.dot(p.to(do.dtype), do, dv, input_precision=PRECISION)
            dp = tl.dot(v, tl.trans(do), input_precision=PRECISION)
            ds = p * (dp - row_delta[None, :])
            dk = tl.dot(ds.to(q.dtype), q, dk, input_precision=PRECISION)
        offset = (row * tl.num_programs(1) + chunk) * sink_size * D
        _store_tile(partial_key + offset, D, sink_lo, sink_size, dk, BLOCK_K, D)
        _store_tile(partial_value + offset, D, sink_lo, sink_size, dv, BLOCK_K, D)


@triton.jit
def key_grad(
    query, key, value, grad_out, gates, starts, logsumexp, delta, partial_key, partial_value,
    grad_key, grad_value,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, g_b, g_h, g_t, dk_b, dk_h, dk_t, dv_b, dv_h, dv_t,
    num_tokens, num_kv_heads, sink_size, recent_size, scale, scale_log2, num_chunks,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, CHUNK: tl.constexpr,
    HAS_STARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of one block of keys and values of one KV head, summed over the heads of its group.

    Walks the queries that are near, adds the partial sums of the far ones, and mixes: ``grad_key`` and
    ``grad_value`` hold the gradients of the full branch, for an ungated grad_out, and are replaced.
    Grid: (B * Hkv, cdiv(T, BLOCK_K)); blocks with sinks, which have the most work, come first.
    """
    row = tl.program_id(0).to(tl.int64)
    batch, kv_head = row // num_kv_heads, row % num_kv_heads
    key_lo = tl.program_id(1) * BLOCK_K
    if HAS_STARTS:
        starts += batch * num_tokens
    query += batch * q_b + kv_head * GROUP * q_h
    key += batch * k_b + kv_head * k_h
    value += batch * v_b + kv_head * v_h
    grad_out += batch * g_b + kv_head * GROUP * g_h
    logsumexp += row * GROUP * num_tokens
    delta += row * GROUP * num_tokens

    key_index = key_lo + tl.arange(0, BLOCK_K)
    key_start = _key_starts(starts, key_index, num_tokens, HAS_STARTS)
    is_sink = (key_start >= 0) & (key_index - key_start < sink_size)
    sink_reach = _far_start(key_start, sink_size, recent_size, CHUNK) - key_index
    reach = tl.where(is_sink, sink_reach, tl.where(key_start >= 0, recent_size, 0)).to(tl.uint32)
    # Only the sequence of the block's last token goes on behind the block.
    last = _token_start(starts, tl.minimum(key_lo + BLOCK_K, num_tokens) - 1, HAS_STARTS)
    far_start = _far_start(last, sink_size, recent_size, CHUNK)
    has_sinks = (last >= 0) & (key_lo < last + sink_size)
    query_hi = key_lo + BLOCK_K - 1 + recent_size
    query_hi = tl.minimum(tl.where(has_sinks, tl.maximum(query_hi, far_start), query_hi), num_tokens)

    k = _load_tile(key, k_t, key_lo, num_tokens, BLOCK_K, D)
    v = _load_tile(value, v_t, key_lo, num_tokens, BLOCK_K, D)
    first_query = key_lo // BLOCK_Q * BLOCK_Q
    blocks = tl.cdiv(query_hi - first_query, BLOCK_Q)
    dk = tl.zeros([BLOCK_K, D], tl.float32)
    dv = tl.zeros([BLOCK_K, D], tl.float32)
    if has_sinks:
        sink_row = key_index - last
        sink_mask = (is_sink & (key_start == last))[:, None]
        sink_offset = sink_row[:, None] * D + tl.arange(0, D)[None, :]
        for chunk in range(far_start // CHUNK, num_chunks):
            chunk_mask = sink_mask & (_token_start(starts, chunk * CHUNK, HAS_STARTS) == last)
            offset = (row * num_chunks + chunk) * sink_size * D
            dk += tl.load(partial_key + offset + sink_offset, mask=chunk_mask, other=0.0)
            dv += tl.load(partial_value + offset + sink_offset, mask=chunk_mask, other=0.0)

    for step in range(GROUP * blocks):
        head = (step // blocks).to(tl.int64)
        query_lo = first_query + step % blocks * BLOCK_Q
        index = query_lo + tl.arange(0, BLOCK_Q)
        query_start = _query_starts(starts, index, num_tokens, HAS_STARTS)
        q = _load_tile(query + head * q_h, q_t, query_lo, num_tokens, BLOCK_Q, D)
        do = _load_tile(grad_out + head * g_h, g_t, query_lo, num_tokens, BLOCK_Q, D)
        lse = tl.load(logsumexp + head * num_tokens + index, mask=index < num_tokens, other=float("inf"))
        row_delta = tl.load(delta + head * num_tokens + index, mask=index < num_tokens, other=0.0)
        scores = tl.dot(k, tl.trans(q), input_precision=PRECISION)
        seen = _visible(index[None, :], query_start[None, :], key_index[:, None], reach[:, None], HAS_STARTS)
        p = tl.where(seen, tl.exp2(scores * scale_log2 - lse[None, :]), 0.0)
        dv = tl.dot(p.to(do.dtype), do, dv, input_precision=PRECISION)
        dp = tl.dot(v, tl.trans(do), input_precision=PRECISION)
        ds = p * (dp - row_delta[None, :])
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision=PRECISION)

    gate = tl.load(gates + kv_head)
    valid = (key_start >= 0)[:, None]
    grad_key += batch * dk_b + kv_head * dk_h
    full_grad = _load_tile(grad_key, dk_t, key_lo, num_tokens, BLOCK_K, D).to(tl.float32)
    mixed = tl.where(valid, gate * full_grad + (1.0 - gate) * scale * dk, 0.0)
    _store_tile(grad_key, dk_t, key_lo, num_tokens, mixed, BLOCK_K, D)
    grad_value += batch * dv_b + kv_head * dv_h
    full_grad = _load_tile(grad_value, dv_t, key_lo, num_tokens, BLOCK_K, D).to(tl.float32)
    mixed = tl.where(valid, gate * full_grad + (1.0 - gate) * dv, 0.0)
    _store_tile(grad_value, dv_t, key_lo, num_tokens, mixed, BLOCK_K, D)
