"""How many requests run at once: as many as the window pool will hold when their windows are full.

SGLang counts what requests hold of the window pool now. A window pool of ours is a few windows for every
request that the full pool is meant for, and short requests come in greater numbers: counted so, they are
admitted until the pool is full, and from then on retracted at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlkv.planner import Demand

from .state import state


def reserve_for_running(result: None, adder: Any, *args: Any, **options: Any) -> None:
    """Keep back what running requests will still take (after ``PrefillAdder.__init__``)."""
    if adder.running_batch is not None:
        reserved = sum(_still_to_take(req, adder) for req in adder.running_batch.reqs)
        adder.rem_swa_token_offset += reserved


def reserve_for_new(
    original: Callable[..., int], adder: Any, extend_input_len: int, max_new_tokens: int, *rest: Any
) -> int:
    """What a new request will take beside its prefill (around ``PrefillAdder._swa_reserved_tokens``)."""
    most = _most_slots(extend_input_len + max_new_tokens, adder)
    return max(original(adder, extend_input_len, max_new_tokens, *rest), most)


def _still_to_take(req: Any, adder: Any) -> int:
    tokens = len(req.origin_input_ids) + req.sampling_params.max_new_tokens
    return max(0, _most_slots(tokens, adder) - _held(req, adder))


def _held(req: Any, adder: Any) -> int:
    """Window slots of a running request, its part of the prefix cache included."""
    if req.kv is None:
        return 0
    window = state().settings.window
    begin = max(req.kv.swa_evicted_seqlen, req.cache_protected_len)
    held = max(0, req.seqlen - begin) + min(begin, window.sink_size)
    if req.swa_uuid_for_lock is not None and not req.swa_prefix_lock_released:
        held += min(req.cache_protected_len, window.recent_size)
    return int(held)


def _most_slots(tokens: int, adder: Any) -> int:
    """Most window slots that a request of so many tokens holds while it decodes."""
    from sglang.srt.environ import envs

    demand = Demand(
        window=state().settings.window,
        request_tokens=tokens,
        page_size=adder.page_size,
        eviction_interval=max(1, envs.SGLANG_SWA_EVICTION_INTERVAL.get()),
        prefill_tokens=0,
    )
    return demand.slots_per_request
