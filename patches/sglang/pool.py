"""The KV pools: every layer is in both, with its own number of full and of streaming heads in each.

Slots are owned as in SGLang's sliding-window pool. A token takes one slot of each; the allocator maps the
slot of the full pool to that of the window pool (0 is nobody's, -1 stays -1). Window slots of tokens that
left the window are freed early, those of sinks are kept as long as the token's full slot.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from sglang.srt.mem_cache.base_swa_memory_pool import BaseSWAKVPool
from sglang.srt.mem_cache.memory_pool import KVCache, unwrap_write_loc

from rlkv.planner import PoolSizes

from .head_pool import HeadPool
from .settings import Settings

logger = logging.getLogger(__name__)
GIB = 1 << 30


class HybridHeadPool(BaseSWAKVPool):
    """Both pools behind the interface that SGLang's allocator and scheduler know for sliding windows.

    Attributes:
        full_kv_pool: the full heads of every layer.
        swa_kv_pool: the streaming heads of every layer.
    """

    def __init__(
        self,
        settings: Settings,
        sizes: PoolSizes,
        page_size: int,
        dtype: torch.dtype,
        head_dim: int,
        device: str,
    ) -> None:
        KVCache.__init__(
            self,
            sizes.full_tokens,
            page_size,
            dtype,
            len(settings.streaming),
            device,
            enable_memory_saver=False,
        )
        self.settings = settings
        self.sizes = sizes
        self.size_swa = sizes.window_tokens
        self.shape = settings.cache_shape(head_dim, torch.empty(0, dtype=dtype).element_size())
        mask = torch.tensor(settings.local_streaming)
        full = [(~row).nonzero().flatten() for row in mask]
        streaming = [row.nonzero().flatten() for row in mask]
        # One page more than the pool holds: writes of padding tokens go to slot 0, which is nobody's.
        self.full_kv_pool = HeadPool(full, sizes.full_tokens + page_size, head_dim, dtype, device)
        self.swa_kv_pool = HeadPool(streaming, sizes.window_tokens + page_size, head_dim, dtype, device)
        self.full_to_swa_index_mapping: torch.Tensor | None = None
        self.mem_usage = self.nbytes() / GIB

    def nbytes(self) -> int:
        """Bytes of all buffers, counted from the tensors."""
        return sum(self.get_kv_size_bytes())

    def get_kv_size_bytes(self) -> tuple[int, int]:
        pairs = [self.full_kv_pool.nbytes(), self.swa_kv_pool.nbytes()]
        return sum(keys for keys, _ in pairs), sum(values for _, values in pairs)

    def register_mapping(self, full_to_swa_index_mapping: torch.Tensor) -> None:
        self.full_to_swa_index_mapping = full_to_swa_index_mapping

    @property
    def mapping(self) -> torch.Tensor:
        """Slots of the window pool by slots of the full pool, once the allocator is made."""
        if self.full_to_swa_index_mapping is None:
            raise RuntimeError("rlkv: slots of the window pool were asked for before the allocator was made")
        return self.full_to_swa_index_mapping

    def translate_loc_from_full_to_swa(self, kv_indices: torch.Tensor) -> torch.Tensor:
        return self.mapping[kv_indices]

    def set_kv_buffer(
        self,
        layer: Any,
        loc_info: Any,
        cache_k: torch.Tensor,
        cache_v: torch.Tensor,
        k_scale: float | None = None,
        v_scale: float | None = None,
    ) -> None:
        """Write a layer's new tokens into both pools; ``cache_k``, ``cache_v`` are [T, num_kv_heads, D]."""
        slots, window_slots, _ = unwrap_write_loc(loc_info)
        if window_slots is None:
            window_slots = self.translate_loc_from_full_to_swa(slots)
        self.full_kv_pool.write(layer.layer_id, slots, cache_k, cache_v)
        self.swa_kv_pool.write(layer.layer_id, window_slots, cache_k, cache_v)

    def get_key_buffer(self, layer_id: int) -> torch.Tensor:
        raise self._one_buffer()

    def get_value_buffer(self, layer_id: int) -> torch.Tensor:
        raise self._one_buffer()

    def get_kv_buffer(self, layer_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        raise self._one_buffer()

    def get_state_buf_infos(self) -> Any:
        raise self._one_buffer()

    @staticmethod
    def _one_buffer() -> RuntimeError:
        """Code that expects one buffer a layer would read some of the heads as if they were all."""
        return RuntimeError(
            "rlkv: a layer's KV heads are in two pools, and some code asked for the one buffer"
        )
