"""FlashInfer for the full heads: one plan for every number of full heads that layers have.

FlashInfer's plan depends on the lengths of the sequences and on the number of heads, not on the layer: layers
with equally many full heads share one. Page tables are shared by all, because a token has one slot in all
layers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from flashinfer import (
    BatchDecodeWithPagedKVCacheWrapper,
    BatchPrefillWithPagedKVCacheWrapper,
    BatchPrefillWithRaggedKVCacheWrapper,
    fast_decode_plan,
)
from sglang.kernels.ops.attention.utils import create_flashinfer_kv_indices_triton
from sglang.srt.environ import envs
from sglang.srt.layers.attention.flashinfer_backend import _safe_merge_state, should_use_tensor_core
from sglang.srt.runtime_context import get_buffer


class FullHeads:
    """Attention over the full pool.

    Args:
        runner: SGLang's ``ModelRunner``.
        counts: numbers of full heads that layers have, without 0.
        group: query heads of a KV head.
        head_dim: channels of a head.
        max_batch: most sequences of a batch.
    """

    def __init__(self, runner: Any, counts: list[int], group: int, head_dim: int, max_batch: int) -> None:
        self.counts, self.group, self.head_dim = counts, group, head_dim
        self.dtype = runner.dtype
        self.device = torch.device(runner.device)
        self.req_to_token = runner.req_to_token_pool.req_to_token
        self.context = runner.model_config.context_len
        self.tensor_cores = should_use_tensor_core(runner.kv_cache_dtype, group, 1)
        self.workspace = get_buffer(
            "flashinfer_workspace",
            lambda: torch.empty(
                envs.SGLANG_FLASHINFER_WORKSPACE_SIZE.get(), dtype=torch.uint8, device=self.device
            ),
        )
        self.indptr = torch.zeros(max_batch + 1, dtype=torch.int32, device=self.device)
        self.page_lengths = torch.ones(max_batch, dtype=torch.int32, device=self.device)
        self.eager = {count: self._decoder() for count in counts}
        self.ragged = {
            count: BatchPrefillWithRaggedKVCacheWrapper(self.workspace, "NHD", backend="auto")
            for count in counts
        }
        self.paged = {
            count: BatchPrefillWithPagedKVCacheWrapper(self.workspace, "NHD", backend="fa2")
            for count in counts
        }
        self.graph_indices: torch.Tensor | None = None
        self.graphs: dict[int, dict[int, Any]] = {}
        self.has_prefix = False

    def _decoder(self, **options: Any) -> Any:
        return BatchDecodeWithPagedKVCacheWrapper(
            self.workspace, "NHD", backend="fa2", use_tensor_cores=self.tensor_cores, **options
        )

    # Decoding.

    def allocate_graph_indices(self, max_batch: int) -> None:
        """Make the page table of batches that run in CUDA graphs."""
        self.graph_indices = torch.zeros(max_batch * self.context, dtype=torch.int32, device=self.device)

    def graph_decoders(self, batch_size: int) -> dict[int, Any]:
        """Wrappers by number of heads whose buffers stay where a graph of this batch size reads them."""
        if batch_size not in self.graphs:
            self.graphs[batch_size] = {count: self._graph_decoder(count, batch_size) for count in self.counts}
        return self.graphs[batch_size]

    def _graph_decoder(self, count: int, batch_size: int) -> Any:
        wrapper = self._decoder(
            use_cuda_graph=True,
            paged_kv_indptr_buffer=self.indptr[: batch_size + 1],
            paged_kv_indices_buffer=self.graph_indices,
            paged_kv_last_page_len_buffer=self.page_lengths[:batch_size],
        )
        # One graph runs at a time, and each replay is planned anew: one pair of work buffers for every number
        # of heads is enough, where FlashInfer would take 8 MiB for every batch size as well.
        owner = self.eager[count]
        wrapper._int_workspace_buffer = owner._int_workspace_buffer
        wrapper._pin_memory_int_workspace_buffer = owner._pin_memory_int_workspace_buffer
        return wrapper

    def plan_decode(self, batch: Any, decoders: dict[int, Any]) -> None:
        """Lay out one step: the page table once, then a plan for every number of heads.

        Nothing waits for the device once a wrapper has planned for the first time.
        """
        if not decoders or not batch.batch_size:
            return
        size = batch.batch_size
        lengths, on_host = batch.seq_lens[:size], batch.seq_lens_cpu[:size]
        indptr, indptr_host = self.indptr[: size + 1], torch.zeros(size + 1, dtype=torch.int32)
        torch.cumsum(lengths, 0, dtype=torch.int32, out=indptr[1:])
        torch.cumsum(on_host, 0, dtype=torch.int32, out=indptr_host[1:])
        graph = next(iter(decoders.values())).is_cuda_graph_enabled
        indices = self.graph_indices
        if not graph:
            indices = torch.empty(int(indptr_host[-1]), dtype=torch.int32, device=self.device)
            indptr = indptr.clone()
        self._fill(indices, indptr, batch.req_pool_indices[:size], lengths)
        for count, wrapper in decoders.items():
            self._plan_decoder(wrapper, count, indptr, indptr_host, indices)

    def _plan_decoder(
        self,
        wrapper: Any,
        count: int,
        indptr: torch.Tensor,
        indptr_host: torch.Tensor,
        indices: torch.Tensor | None,
    ) -> None:
        first = getattr(wrapper, "_cached_module", None) is None
        plan = (
            wrapper.plan
            if first
            else partial(fast_decode_plan, wrapper, global_override_indptr_cpu=indptr_host)
        )
        plan(
            indptr,
            indices,
            self.page_lengths[: len(indptr) - 1],
            count * self.group,
            count,
            self.head_dim,
            1,
            q_data_type=self.dtype,
            data_type=self.dtype,
            non_blocking=True,
        )

    def decode(
        self, wrapper: Any, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """[B, count * group, D] of one token of every sequence; keys and values are [slots, count, D]."""
        wrapper._sm_scale = scaling  # plans are shared by layers, and run() takes no scale
        out: torch.Tensor = wrapper.run(query, (keys, values))
        return out

    # Prefill: new tokens among themselves, and, where some were cached, the new ones over the cached.

    def plan_prefill(self, batch: Any) -> None:
        """Lay out one prefill from lengths on the host, so that nothing waits for the device."""
        if not self.counts:
            return
        prefix_lengths = batch.extend_prefix_lens_cpu
        new = _indptr(batch.extend_seq_lens_cpu)
        self.has_prefix = any(prefix_lengths)
        if self.has_prefix:
            old = _indptr(prefix_lengths)
            indices = torch.empty(int(old[-1]), dtype=torch.int32, device=self.device)
            indptr = old.to(self.device, non_blocking=True)
            self._fill(indices, indptr, batch.req_pool_indices, batch.extend_prefix_lens)
        types = {"q_data_type": self.dtype, "kv_data_type": self.dtype, "non_blocking": True}
        for count in self.counts:
            shape = (count * self.group, count, self.head_dim)
            self.ragged[count].plan(new, new, *shape, causal=True, **types)
            if self.has_prefix:
                lengths = torch.ones(batch.batch_size, dtype=torch.int32)
                self.paged[count].plan(new, old, indices, lengths, *shape, 1, causal=False, **types)

    def prefill(
        self,
        query: torch.Tensor,
        new: tuple[torch.Tensor, torch.Tensor],
        cached: tuple[torch.Tensor, torch.Tensor],
        scaling: float,
    ) -> torch.Tensor:
        """Attention of the new tokens.

        Args:
            query: [T, count * group, D].
            new: keys and values of the new tokens, [T, count, D].
            cached: those of the pool, [slots, count, D].
            scaling: of the logits.

        Returns:
            [T, count * group, D].
        """
        count = new[0].shape[1]
        ragged, paged = self.ragged[count], self.paged[count]
        ragged._sm_scale = paged._sm_scale = scaling
        out: torch.Tensor
        if not self.has_prefix:
            out = ragged.run(query, *new)
            return out
        parts = (*ragged.run(query, *new, return_lse=True), *paged.run(query, cached, return_lse=True))
        out, _ = _safe_merge_state(*parts)
        return out

    def _fill(
        self, indices: torch.Tensor | None, indptr: torch.Tensor, rows: torch.Tensor, lengths: torch.Tensor
    ) -> None:
        """Write the slots of all sequences one after the other."""
        create_flashinfer_kv_indices_triton[(len(rows),)](
            self.req_to_token, rows, lengths, indptr, None, indices, self.req_to_token.shape[1]
        )


def _indptr(lengths: list[int]) -> torch.Tensor:
    """[0, a, a + b, ...] on the host."""
    indptr = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    torch.cumsum(torch.tensor(lengths), 0, dtype=torch.int32, out=indptr[1:])
    return indptr
