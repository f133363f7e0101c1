"""``/server_info`` shows the hybrid cache that is really in use (after ``Scheduler.get_internal_state``)."""

from __future__ import annotations

from typing import Any

from rlkv.planner import dense_tokens

from .state import state
from .usage import usage


def add_cache(result: Any, scheduler: Any, *args: Any) -> Any:
    """Add ``rlkv`` to the internal state; every number is read from the pools, none from the flags."""
    result.internal_state["rlkv"] = describe(scheduler.token_to_kv_pool_allocator)
    return result


def describe(allocator: Any) -> dict[str, Any]:
    """The cache of this process in JSON values."""
    pool = allocator.get_kvcache()
    shape, settings, nbytes = pool.shape, pool.settings, pool.nbytes()
    return {
        "heads_file": settings.heads_file,
        "model_id": settings.model_id,
        "sparsity": settings.sparsity,
        "sink_size": settings.window.sink_size,
        "recent_size": settings.window.recent_size,
        # What the pools were made from, for a client that must know which heads stream, not only how many.
        "mask": ["".join("s" if streams else "F" for streams in row) for row in settings.streaming],
        "tp_rank": settings.rank,
        "tp_size": settings.ranks,
        "full_heads": [len(heads) for heads in pool.full_kv_pool.heads],
        "streaming_heads": [len(heads) for heads in pool.swa_kv_pool.heads],
        "full_token_bytes": shape.full_token_bytes,
        "window_token_bytes": shape.window_token_bytes,
        "dense_token_bytes": shape.dense_token_bytes,
        "page_size": pool.page_size,
        "full_tokens": pool.sizes.full_tokens,
        "window_tokens": pool.sizes.window_tokens,
        "request_tokens": settings.request_tokens,
        "request_tokens_observed": state().observed.value,
        "budget_bytes": state().budget_bytes,
        "pool_bytes": nbytes,
        "full_heads_by_rank": [
            sum(other.full_heads) for other in settings.cache_shapes(shape.head_dim, shape.element_bytes)
        ],
        "dense_tokens_in_same_bytes": dense_tokens(nbytes, shape, pool.page_size),
        "window_tokens_freed": state().freed_tokens,
        **usage(allocator),
    }
