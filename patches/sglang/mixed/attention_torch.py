"""Mixed attention in plain torch, for the CPU: reference speed, the arithmetic of ``rlkv.attention``."""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.mem_cache.memory_pool import KVWriteLoc

from rlkv.attention.layout import SequenceLayout
from rlkv.attention.mixed import mixed_attention

from .process import prepare


class MixedTorchBackend(AttentionBackend):
    """One sequence at a time, over the stock pool."""

    def __init__(self, model_runner: Any) -> None:
        super().__init__()
        self.window, self.gates = prepare(model_runner)
        self.pool = model_runner.token_to_kv_pool
        # Where models look for the pools.
        self.token_to_kv_pool, self.req_to_token_pool = self.pool, model_runner.req_to_token_pool
        self.req_to_token = model_runner.req_to_token_pool.req_to_token
        self.layouts: list[SequenceLayout] = []

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Lay out the sequences of a step once for all layers, so that they share their masks."""
        lengths = forward_batch.seq_lens.tolist()
        decode = forward_batch.forward_mode.is_decode_or_idle()
        new = [1] * len(lengths) if decode else forward_batch.extend_seq_lens.tolist()
        device = self.req_to_token.device
        sizes = zip(new, lengths, strict=True)
        self.layouts = [SequenceLayout(query, key, None, device) for query, key in sizes]

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
        """Write the new tokens, then attend: [T, Hq * D] from and to SGLang, T tokens of all sequences."""
        query = q.view(-1, layer.tp_q_head_num, layer.qk_head_dim)
        if save_kv_cache and k is not None:
            self.pool.set_kv_buffer(layer, KVWriteLoc(forward_batch.out_cache_loc, None), k, v)
        keys = self.pool.get_key_buffer(layer.layer_id)
        values = self.pool.get_value_buffer(layer.layer_id)
        gates = self.gates[layer.layer_id]
        out = torch.empty_like(query)
        begin = 0
        for request, layout in zip(forward_batch.req_pool_indices.tolist(), self.layouts, strict=True):
            slots = self.req_to_token[request, : layout.key_length]
            end = begin + layout.query_length
            rows, key, value = (
                x.transpose(0, 1)[None] for x in (query[begin:end], keys[slots], values[slots])
            )
            mixed = mixed_attention(rows, key, value, gates, self.window, layer.scaling, layout)
            out[begin:end] = mixed[0].transpose(0, 1)
            begin = end
        return out.view_as(q)

    forward_decode = forward_extend
    """A decoding step is one new token of every sequence."""

    def support_triton(self) -> bool:
        return False
