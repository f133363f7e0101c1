"""Attention over the two pools on CUDA: FlashInfer for the full heads, Triton for the streaming ones.

A layer's first launch writes the new tokens into both pools and gathers the queries of the full heads. In
decoding, FlashInfer then attends in the full heads while, on a second stream, one launch attends in the
streaming heads: it fills what FlashInfer leaves idle as its last blocks end. A copy puts both outputs
together. Prefill, which leaves nothing idle, does it in turn, and its last launch copies. A layer with heads
of one kind takes two launches.

Whatever changes from step to step is laid out before the step (``init_forward_metadata_out_graph``): SGLang
may change slots as soon as a decode graph has been launched, so the graph itself reads no mapping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.utils import get_cuda_graph_max_batch_size

from rlkv.window import Window

from . import hybrid_launch
from .full_heads import FullHeads
from .hybrid_launch import LayerHeads
from .pool import HybridHeadPool
from .state import state


@dataclass
class Step:
    """What the layers of one forward pass share.

    Attributes:
        window_slots: [T] slots of the window pool of the new tokens.
        table: [B, S + W] window slots that each sequence sees; decoding only.
        decoders: FlashInfer's wrappers by number of full heads; decoding only.
    """

    window_slots: torch.Tensor
    table: torch.Tensor | None = None
    decoders: dict[int, Any] | None = None


class HybridFlashInferBackend(AttentionBackend):
    """SGLang's contract of an attention backend, for decoding (with CUDA graphs) and prefill."""

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
        full, streaming = self.pool.full_kv_pool, self.pool.swa_kv_pool
        group = model_runner.model_config.num_attention_heads // model_runner.model_config.num_key_value_heads
        self.layers = [LayerHeads.of(i, full, streaming, group) for i in range(len(full.heads))]
        head_dim = self.layers[0].head_dim
        max_batch = get_cuda_graph_max_batch_size(
            model_runner.server_args, model_runner.req_to_token_pool.size
        )
        counts = sorted({heads.num_full for heads in self.layers} - {0})
        self.full = FullHeads(model_runner, counts, group, head_dim, max_batch)
        self.side = torch.cuda.Stream()
        self.step: Step | None = None
        self.graph_table: torch.Tensor | None = None
        self.graph_window_slots: torch.Tensor | None = None

    # Before a step.

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Lay out a step that runs without a graph of decoding."""
        if forward_batch.forward_mode.is_decode_or_idle():
            size = forward_batch.batch_size
            table, slots = self._tables(size)
            self._look_up(forward_batch, table, slots)
            self.full.plan_decode(forward_batch, self.full.eager)
            self.step = Step(slots, table, self.full.eager)
        else:
            self.full.plan_prefill(forward_batch)
            self.step = Step(self.pool.translate_loc_from_full_to_swa(forward_batch.out_cache_loc))

    def init_cuda_graph_state(self, max_bs: int, max_num_tokens: int) -> None:
        """Make the buffers that graphs of decoding read."""
        self.graph_table, self.graph_window_slots = self._tables(max_bs)
        self.full.allocate_graph_indices(max_bs)

    def init_forward_metadata_out_graph(self, forward_batch: Any, in_capture: bool = False) -> None:
        """Lay out a step of decoding for a graph, before its capture and before every replay."""
        size = forward_batch.batch_size
        assert self.graph_table is not None and self.graph_window_slots is not None
        table, slots = self.graph_table[:size], self.graph_window_slots[:size]
        decoders = self.full.graph_decoders(size)
        self._look_up(forward_batch, table, slots)
        self.full.plan_decode(forward_batch, decoders)
        self.step = Step(slots, table, decoders)

    def get_cuda_graph_seq_len_fill_value(self) -> int:
        return 1

    def _tables(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.req_to_token.device
        table = torch.zeros(size, self.window.size, dtype=torch.int32, device=device)
        return table, torch.zeros(size, dtype=torch.int64, device=device)

    def _look_up(self, batch: Any, table: torch.Tensor, slots: torch.Tensor) -> None:
        if len(table):
            where = self.req_to_token, self.pool.mapping
            hybrid_launch.look_up_windows(table, slots, self.window, batch, *where)

    # A layer.

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
        """One new token of every sequence: [B, Hq * D] from and to SGLang."""
        heads, step = self.layers[layer.layer_id], self.step
        assert step is not None and step.table is not None
        q, full_query = self._write(heads, q, k, v, forward_batch, step)
        if not heads.num_streaming:
            return self._attend_full(heads, full_query, step, layer).flatten(1)
        # Made first: it is written while FlashInfer runs, and must not be memory of FlashInfer's.
        out = q.new_empty(q.shape)
        if not heads.num_full:
            hybrid_launch.decode(heads, q, out, step.table, layer.scaling, beside=False)
            return out
        main = torch.cuda.current_stream()
        self.side.wait_stream(main)
        with torch.cuda.stream(self.side):
            hybrid_launch.decode(heads, q, out, step.table, layer.scaling, beside=True)
        full_out = self._attend_full(heads, full_query, step, layer)
        main.wait_stream(self.side)
        hybrid_launch.copy_full(heads, full_out, out)
        return out

    def _attend_full(self, heads: LayerHeads, query: torch.Tensor, step: Step, layer: Any) -> torch.Tensor:
        """[B, num_full * group, D] of one token of every sequence."""
        assert step.decoders is not None
        wrapper = step.decoders[heads.num_full]
        return self.full.decode(wrapper, query, heads.full_keys, heads.full_values, layer.scaling)

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
        """New tokens of every sequence, after those that are in the pools: [T, Hq * D] from and to SGLang."""
        heads, step = self.layers[layer.layer_id], self.step
        assert step is not None
        q, full_query = self._write(heads, q, k, v, forward_batch, step)
        full_out = None
        if heads.num_full:
            new = (self._full_rows(heads, k), self._full_rows(heads, v))
            full_out = self.full.prefill(full_query, new, (heads.full_keys, heads.full_values), layer.scaling)
            if not heads.num_streaming:
                return full_out.flatten(1)
        out = q.new_empty(q.shape)
        where = self.req_to_token, self.pool.mapping
        hybrid_launch.prefill(heads, q, out, full_out, self.window, forward_batch, *where, layer.scaling)
        return out

    def _write(
        self, heads: LayerHeads, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, batch: Any, step: Step
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the new tokens; return the queries, as [T, Hq * D] of all and [T, n, D] of the full heads."""
        tokens = len(q)
        q, k, v = (x.reshape(tokens, -1) for x in (q, k, v))
        slots = batch.out_cache_loc
        return q, hybrid_launch.write(heads, q, k, v, slots, step.window_slots[: len(slots)])

    @staticmethod
    def _full_rows(heads: LayerHeads, x: torch.Tensor) -> torch.Tensor:
        """[T, num_full, D] of the full heads of keys or values [T, Hkv, D]."""
        x = x.view(len(x), heads.num_heads, heads.head_dim)
        return x if not heads.num_streaming else x.index_select(1, heads.full)
