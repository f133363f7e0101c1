"""Mixed attention on CUDA: SGLang's own FlashInfer backend, and one more launch a layer that mixes in place.

FlashInfer's plans, page tables and CUDA graphs stay the stock ones. The kernel reads the window once more,
through FlashInfer's page table when decoding, so that a CUDA graph reads nothing that is not laid out for it.
"""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.layers.attention.flashinfer_backend import FlashInferAttnBackend

from .kernels import mix_decode, mix_extend
from .process import prepare


class MixedFlashInferBackend(FlashInferAttnBackend):
    """Full attention of all heads by the base class, mixed with the streaming part."""

    def __init__(self, model_runner: Any) -> None:
        super().__init__(model_runner)
        self.window, self.gates = prepare(model_runner)
        self.req_to_token = model_runner.req_to_token_pool.req_to_token

    def forward_decode(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layer: Any,
        forward_batch: Any,
        save_kv_cache: bool = True,
    ) -> torch.Tensor:
        """One new token of every sequence: [B, Hq * D] from and to SGLang."""
        out: torch.Tensor = super().forward_decode(q, k, v, layer, forward_batch, save_kv_cache)
        wrapper = self.forward_metadata.decode_wrappers[0]
        table = wrapper._paged_kv_indptr_buf, wrapper._paged_kv_indices_buf
        pool = self.token_to_kv_pool.get_kv_buffer(layer.layer_id)
        query = q.reshape(len(out), -1)
        mix_decode(query, out, pool, self.gates[layer.layer_id], table, self.window, layer.scaling)
        return out

    def forward_extend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layer: Any,
        forward_batch: Any,
        save_kv_cache: bool = True,
    ) -> torch.Tensor:
        """New tokens of every sequence, after those that are in the pool: [T, Hq * D] from and to SGLang."""
        out: torch.Tensor = super().forward_extend(q, k, v, layer, forward_batch, save_kv_cache)
        pool = self.token_to_kv_pool.get_kv_buffer(layer.layer_id)
        gates, window = self.gates[layer.layer_id], self.window
        query = q.reshape(len(out), -1)
        mix_extend(query, out, pool, gates, forward_batch, self.req_to_token, window, layer.scaling)
        return out
