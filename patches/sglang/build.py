"""Make the pools of this process, and say what they hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlkv.planner import PoolSizes

from .pool import HybridHeadPool
from .startup_table import print_table
from .state import state


def build_pool(original: Callable[..., Any], kvc: Any, **options: Any) -> HybridHeadPool:
    """Make the pools (around ``KVCacheConfigurator._build_token_to_kv_pool``)."""
    sizes = options["sizes"]
    serving = state()
    pool = HybridHeadPool(
        serving.settings,
        PoolSizes(sizes.full_max_total_num_tokens, sizes.swa_max_total_num_tokens),
        kvc.page_size,
        kvc.kv_cache_dtype,
        kvc.model_config.head_dim,
        kvc.device,
    )
    serving.pool = pool
    print_table(pool, kvc.server_args)
    return pool
