"""Attention over the two pools in plain torch, for the CPU: reference speed, the reference's arithmetic.

Every token sees what ``rlkv.window`` says, prompt tokens too, so that the answer depends neither on the
chunks of a prompt nor on what of it was cached.
"""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.mem_cache.memory_pool import KVWriteLoc

from rlkv.attention.mixed import grouped_attention
from rlkv.window import Window

from .pool import HybridHeadPool
from .state import state


class HybridTorchBackend(AttentionBackend):
    """One sequence at a time, first its full heads, then its streaming ones."""

    def __init__(self, model_runner: Any) -> None:
        super().__init__()
        from .fail_closed import check_process

        check_process(model_runner)
        state().allocator = model_runner.token_to_kv_pool_allocator
        self.pool: HybridHeadPool = model_runner.token_to_kv_pool
        # Where models look for the pools.
        self.token_to_kv_pool, self.req_to_token_pool = self.pool, model_runner.req_to_token_pool
        self.window: Window = self.pool.settings.window
        self.req_to_token = model_runner.req_to_token_pool.req_to_token
        self.window_write_slots: torch.Tensor | None = None

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Translate the slots of the new tokens once for all layers."""
        self.window_write_slots = self.pool.translate_loc_from_full_to_swa(forward_batch.out_cache_loc)

    def forward_extend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layer: Any,
        forward_batch: Any,
        save_kv_cache: bool = True,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Prefill: every sequence brings its new tokens, after the ones that are in the pools."""
        new = forward_batch.extend_seq_lens.tolist()
        return self._forward(q, k, v, layer, forward_batch, new, save_kv_cache)

    def forward_decode(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layer: Any,
        forward_batch: Any,
        save_kv_cache: bool = True,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Decode: every sequence brings one token."""
        return self._forward(q, k, v, layer, forward_batch, [1] * forward_batch.batch_size, save_kv_cache)

    def support_triton(self) -> bool:
        return False

    def _forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layer: Any,
        forward_batch: Any,
        num_new: list[int],
        save: bool,
    ) -> torch.Tensor:
        """Write the new tokens, then attend: [T, Hq * D] from and to SGLang, T tokens of all sequences."""
        query = q.view(-1, layer.tp_q_head_num, layer.qk_head_dim)
        if save and k is not None:
            key, value = (x.view(-1, layer.tp_k_head_num, layer.qk_head_dim) for x in (k, v))
            slots = KVWriteLoc(forward_batch.out_cache_loc, self.window_write_slots)
            self.pool.set_kv_buffer(layer, slots, key, value)
        out = torch.empty_like(query)
        begin = 0
        rows, lengths = forward_batch.req_pool_indices.tolist(), forward_batch.seq_lens.tolist()
        for row, length, new in zip(rows, lengths, num_new, strict=True):
            slots = self.req_to_token[row, :length]
            out[begin : begin + new] = self._attend(query[begin : begin + new], slots, layer)
            begin += new
        return out.view_as(q)

    def _attend(self, query: torch.Tensor, slots: torch.Tensor, layer: Any) -> torch.Tensor:
        """Attention of the last tokens of one sequence.

        Args:
            query: [T, Hq, D], T the number of new tokens.
            slots: [length] of the full pool, of all tokens of the sequence, the new ones last.
            layer: SGLang's attention layer.

        Returns:
            [T, Hq, D].
        """
        new, length = len(query), len(slots)
        group = layer.tp_q_head_num // layer.tp_k_head_num
        grouped = query.unflatten(1, (-1, group))
        positions = torch.arange(length)
        query_positions = positions[length - new :, None]
        out = torch.empty_like(grouped)
        full, window = self.pool.full_kv_pool, self.pool.swa_kv_pool
        heads = full.heads[layer.layer_id]
        if len(heads):
            mask = positions <= query_positions
            keys, values = full.read(layer.layer_id, slots)
            out[:, heads] = _grouped(grouped[:, heads], keys, values, mask, layer.scaling)
        heads = window.heads[layer.layer_id]
        if len(heads):
            kept = self._kept(positions, new)
            mask = self.window.visible(query_positions, kept)
            keys, values = window.read(layer.layer_id, self.pool.translate_loc_from_full_to_swa(slots[kept]))
            out[:, heads] = _grouped(grouped[:, heads], keys, values, mask, layer.scaling)
        return out.flatten(1, 2)

    def _kept(self, positions: torch.Tensor, new: int) -> torch.Tensor:
        """Positions that any of the last ``new`` tokens sees; the slots of all others may be gone."""
        first_seen = len(positions) - new - self.window.recent_size + 1
        return positions[(positions < self.window.sink_size) | (positions >= first_seen)]


def _grouped(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scaling: float
) -> torch.Tensor:
    """``grouped_attention`` of [T, H, G, D] over [1, H, K, D] with a mask [T, K], as [T, H, G, D]."""
    flat = query.flatten(1, 2).transpose(0, 1)[None]
    out = grouped_attention(flat, keys.to(query.dtype), values.to(query.dtype), mask[None, None], scaling)
    return out[0].transpose(0, 1).unflatten(1, query.shape[1:3])
