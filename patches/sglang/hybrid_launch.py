"""Launches of the Triton kernels: which heads of a layer are where, and how tiles are cut."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import triton

from rlkv.window import Window

from . import hybrid_kernels as kernels

if TYPE_CHECKING:
    from .head_pool import HeadPool

TILE_ROWS = 16
"""Fewest rows of a matrix product on the tensor cores."""

DECODE_KEYS = 128
"""Most keys that one step of a decoding program reads: a window of 80 in one go."""

DECODE_WARP_KEYS = 16
"""Keys a warp: the fastest of a sweep on an H200, or within 4% of it, for windows of 17 keys and more."""

PREFILL_ROWS, PREFILL_KEYS = 64, 64
"""Rows (tokens times query heads of a group) and keys of a tile of prefill."""


@dataclass(frozen=True)
class LayerHeads:
    """The heads of one layer in both pools, and how its queries are grouped.

    Attributes:
        full, streaming: indices of the layer's KV heads of each kind, int32.
        place: [num_kv_heads] int32, see ``hybrid_kernels``.
        full_keys, full_values: [slots, len(full), D].
        window_keys, window_values: [slots, len(streaming), D].
        group: query heads of a KV head.
    """

    full: torch.Tensor
    streaming: torch.Tensor
    place: torch.Tensor
    full_keys: torch.Tensor
    full_values: torch.Tensor
    window_keys: torch.Tensor
    window_values: torch.Tensor
    group: int

    @classmethod
    def of(cls, layer: int, full_pool: HeadPool, window_pool: HeadPool, group: int) -> LayerHeads:
        """From the pools."""
        full, streaming = (pool.heads[layer].to(torch.int32) for pool in (full_pool, window_pool))
        place = torch.empty(len(full) + len(streaming), dtype=torch.int32, device=full.device)
        place[full.long()] = torch.arange(len(full), dtype=torch.int32, device=full.device)
        place[streaming.long()] = -1 - torch.arange(len(streaming), dtype=torch.int32, device=full.device)
        full_buffers = full_pool.keys[layer], full_pool.values[layer]
        window_buffers = window_pool.keys[layer], window_pool.values[layer]
        return cls(full, streaming, place, *full_buffers, *window_buffers, group)

    @property
    def num_full(self) -> int:
        return len(self.full)

    @property
    def num_streaming(self) -> int:
        return len(self.streaming)

    @property
    def num_heads(self) -> int:
        """KV heads of both kinds."""
        return len(self.place)

    @property
    def queries_pad(self) -> int:
        """Query heads, to the next power of two."""
        padded: int = triton.next_power_of_2(self.num_heads * self.group)
        return padded

    @property
    def head_dim(self) -> int:
        dim: int = self.full_keys.shape[-1]
        return dim


def write(
    heads: LayerHeads,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    full_slots: torch.Tensor,
    window_slots: torch.Tensor,
) -> torch.Tensor:
    """Store new tokens in both pools, and return the queries of the full heads.

    Args:
        heads: of the layer.
        query: [T, Hq * D]; rows may have a stride.
        key, value: [T, Hkv * D]; rows may have a stride.
        full_slots, window_slots: [T] of each pool.

    Returns:
        [T, num_full * group, D]; a view of ``query`` where all heads are full.
    """
    tokens, D = len(query), heads.head_dim
    gather = 0 < heads.num_full < heads.num_heads
    gathered = query.view(tokens, -1, D)
    if gather:
        gathered = query.new_empty(tokens, heads.num_full * heads.group, D)
    kernels.write_heads[(tokens,)](
        query, key, value, gathered,
        heads.full_keys, heads.full_values, heads.window_keys, heads.window_values, heads.place,
        full_slots, window_slots, query.stride(0), key.stride(0), value.stride(0),
        heads.num_full, heads.num_streaming,
        HEADS=heads.num_heads, HEADS_PAD=triton.next_power_of_2(heads.num_heads), GROUP=heads.group,
        QUERIES_PAD=heads.queries_pad, D=D, GATHER=gather,
        **_overlap(),
    )  # fmt: skip
    return gathered if heads.num_full else gathered[:, :0]


def look_up_windows(
    table: torch.Tensor,
    window_slots: torch.Tensor,
    window: Window,
    batch: Any,
    req_to_token: torch.Tensor,
    mapping: torch.Tensor,
) -> None:
    """Fill ``table`` [B, S + W] and ``window_slots`` [B] for one step of decoding.

    Args:
        table, window_slots: see ``hybrid_kernels.look_up_windows``.
        window: of the streaming heads.
        batch: SGLang's; its ``out_cache_loc`` may be shorter than B, the rest is padding.
        req_to_token: [requests, context] slots of the full pool.
        mapping: slots of the window pool by slots of the full pool.
    """
    slots = batch.out_cache_loc
    kernels.look_up_windows[(len(table),)](
        table, window_slots, req_to_token, mapping, batch.req_pool_indices, batch.seq_lens, slots,
        req_to_token.stride(0), len(slots),
        SINK=window.sink_size, RECENT=window.recent_size, COLUMNS=triton.next_power_of_2(window.size),
    )  # fmt: skip


def decode(
    heads: LayerHeads,
    query: torch.Tensor,
    out: torch.Tensor,
    table: torch.Tensor,
    scaling: float,
    beside: bool,
) -> None:
    """Attention of one token of every sequence in the streaming heads, into ``out``.

    Args:
        heads: of the layer.
        query: [B, Hq * D]; rows may have a stride.
        out: [B, Hq * D], dense; only the rows of streaming heads are written.
        table: [B, S + W] of ``look_up_windows``.
        scaling: of the logits.
        beside: on a stream of its own, which has waited for ``write``; else behind ``write``.
    """
    slots = table.shape[1]
    keys = min(DECODE_KEYS, max(TILE_ROWS, triton.next_power_of_2(slots)))
    overlap = {"OVERLAP": False} if beside else _overlap()
    kernels.decode_window[(len(table), heads.num_streaming)](
        query, out, heads.window_keys, heads.window_values, table, heads.streaming,
        query.stride(0), scaling * math.log2(math.e), heads.num_streaming,
        HEADS=heads.num_heads, GROUP=heads.group, ROWS=_rows(heads.group), D=heads.head_dim,
        SLOTS=slots, BLOCK_K=keys, PRECISION=_precision(query),
        num_warps=keys // DECODE_WARP_KEYS, **overlap,
    )  # fmt: skip


def copy_full(heads: LayerHeads, full_out: torch.Tensor, out: torch.Tensor) -> None:
    """Put the outputs of the full heads, [B, num_full * group, D], into ``out``, [B, Hq * D]."""
    kernels.copy_full[(len(out),)](
        full_out, out, heads.full, heads.num_full,
        HEADS=heads.num_heads, GROUP=heads.group, QUERIES_PAD=heads.queries_pad, D=heads.head_dim,
    )  # fmt: skip


def prefill(
    heads: LayerHeads,
    query: torch.Tensor,
    out: torch.Tensor,
    full_out: torch.Tensor | None,
    window: Window,
    batch: Any,
    req_to_token: torch.Tensor,
    mapping: torch.Tensor,
    scaling: float,
) -> None:
    """Attention of the new tokens of every sequence in the streaming heads, into ``out``.

    Args:
        heads: of the layer.
        query: [T, Hq * D]; rows may have a stride.
        out: [T, Hq * D], dense.
        full_out: [T, num_full * group, D], what is copied into ``out``; None if there are no full heads.
        window: of the streaming heads.
        batch: SGLang's; its new tokens are written already.
        req_to_token: [requests, context] slots of the full pool.
        mapping: slots of the window pool by slots of the full pool.
        scaling: of the logits.
    """
    copies = heads.num_full if full_out is not None else 0
    rows = max(PREFILL_ROWS, _rows(heads.group))
    tokens = rows // heads.group
    most = max(batch.extend_seq_lens_cpu)
    kernels.prefill_window[(triton.cdiv(most, tokens), batch.batch_size, heads.num_streaming + copies)](
        query, out, out if full_out is None else full_out, heads.window_keys, heads.window_values,
        req_to_token, mapping, heads.streaming, heads.full,
        batch.req_pool_indices, batch.extend_prefix_lens, batch.extend_seq_lens, batch.extend_start_loc,
        query.stride(0), req_to_token.stride(0), scaling * math.log2(math.e),
        heads.num_full, heads.num_streaming,
        HEADS=heads.num_heads, GROUP=heads.group, TOKENS=tokens, ROWS=rows, D=heads.head_dim,
        SINK=window.sink_size, RECENT=window.recent_size, BLOCK_K=PREFILL_KEYS, PRECISION=_precision(query),
    )  # fmt: skip


def _rows(group: int) -> int:
    return max(TILE_ROWS, triton.next_power_of_2(group))


@cache
def _overlap() -> dict[str, bool]:
    """Whether the device can place a kernel while the one before it runs: since Hopper."""
    able = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
    return {"OVERLAP": able, "launch_pdl": able}


def _precision(query: torch.Tensor) -> str:
    """Products of float32 are exact to its rounding; others have no choice."""
    return "ieee" if query.dtype == torch.float32 else "tf32"
