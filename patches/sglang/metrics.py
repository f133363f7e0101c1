"""Prometheus gauges of both pools, beside SGLang's own (hooks of ``SchedulerMetricsCollector``)."""

from __future__ import annotations

from typing import Any

from .state import state
from .usage import usage

GAUGES = {
    "rlkv:full_pool_tokens": "Tokens that the pool of the full heads holds.",
    "rlkv:window_pool_tokens": "Tokens that the pool of the streaming heads holds.",
    "rlkv:pool_bytes": "Bytes of both pools.",
    "rlkv:full_tokens_used": "Slots of the full pool in use, by requests or by the prefix cache.",
    "rlkv:window_tokens_used": "Slots of the window pool in use, by requests or by the prefix cache.",
    "rlkv:window_tokens_freed": "Tokens whose window slots were freed since the start: "
    "they left a window, or the prefix cache gave up theirs.",
    "rlkv:request_tokens_observed": "Mean tokens that running requests held, for --rlkv-request-tokens.",
    "rlkv:bytes_saved": "KV bytes that a stock cache would hold for the same tokens, beyond what is held.",
}


def add_gauges(result: None, collector: Any, labels: dict[str, str], *args: Any, **options: Any) -> None:
    """Make the gauges."""
    from prometheus_client import Gauge

    collector.rlkv_gauges = {
        name: Gauge(name, help, labelnames=labels.keys(), multiprocess_mode="mostrecent")
        for name, help in GAUGES.items()
    }


def log_gauges(result: None, collector: Any, *args: Any) -> None:
    """Set them, whenever SGLang sets its own."""
    for name, value in _values().items():
        collector.rlkv_gauges[name].labels(**collector.labels).set(value)


def _values() -> dict[str, int]:
    serving = state()
    if serving.pool is None or serving.allocator is None:
        return {}
    pool = serving.pool
    return {
        "rlkv:full_pool_tokens": pool.sizes.full_tokens,
        "rlkv:window_pool_tokens": pool.sizes.window_tokens,
        "rlkv:pool_bytes": pool.nbytes(),
        "rlkv:request_tokens_observed": serving.observed.value,
        "rlkv:window_tokens_freed": serving.freed_tokens,
        **{f"rlkv:{name}": value for name, value in usage(serving.allocator).items()},
    }
