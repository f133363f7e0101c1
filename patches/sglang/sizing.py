"""How much memory each pool gets (around ``create_memory_pool_configurator``): the planner's arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rlkv.errors import ConfigError
from rlkv.planner import CacheShape, Demand, PoolSizes, prefill_in_flight, split_memory, window_tokens

from .settings import Settings
from .state import state


def demand_of(settings: Settings, server_args: Any, context_length: int) -> Demand:
    """What the requests of this server ask of the window pool."""
    from sglang.srt.environ import envs

    chunk = server_args.chunked_prefill_size or -1
    return Demand(
        window=settings.window,
        request_tokens=settings.request_tokens,
        page_size=server_args.page_size,
        eviction_interval=max(1, envs.SGLANG_SWA_EVICTION_INTERVAL.get()),
        prefill_tokens=prefill_in_flight(chunk, context_length),
    )


class HybridPoolConfigurator:
    """SGLang's ``MemoryPoolConfigurator`` for the two pools; every rank comes to the same sizes.

    Args:
        shapes: the cache of each rank.
        demand: of the requests.
    """

    def __init__(self, shapes: list[CacheShape], demand: Demand) -> None:
        self.shapes = shapes
        self.demand = demand

    def calculate_pool_sizes(self, available_bytes: int, page_size: int) -> Any:
        """Spend a budget of bytes, the least that any rank has."""
        state().budget_bytes = available_bytes
        try:
            return self._config(split_memory(available_bytes, self.demand, *self.shapes))
        except ConfigError as error:
            raise RuntimeError(f"{error}; raise --mem-fraction-static") from error

    def calculate_pool_sizes_from_max_tokens(self, max_total_num_tokens: int, page_size: int) -> Any:
        """``--max-total-tokens`` is what the full pool holds, the limit that requests see."""
        full = max_total_num_tokens // page_size * page_size
        return self._config(PoolSizes(full, window_tokens(full, self.demand, *self.shapes)))

    def finalize_with_max_running_requests(self, config: Any) -> Any:
        """Nothing depends on the number of requests."""
        return config

    def _config(self, sizes: PoolSizes) -> Any:
        from sglang.srt.model_executor.pool_configurator import MemoryPoolConfig

        return MemoryPoolConfig(
            max_total_num_tokens=sizes.full_tokens,
            full_max_total_num_tokens=sizes.full_tokens,
            swa_max_total_num_tokens=sizes.window_tokens,
        )


def create_configurator(original: Callable[..., Any], kvc: Any) -> HybridPoolConfigurator:
    """Ours for every model: a server with ``--rlkv-heads`` has only the one."""
    settings = state().settings
    element_bytes = torch.empty(0, dtype=kvc.kv_cache_dtype).element_size()
    shapes = settings.cache_shapes(kvc.model_config.head_dim, element_bytes)
    demand = demand_of(settings, kvc.server_args, kvc.model_config.context_len)
    return HybridPoolConfigurator(shapes, demand)
