"""How many requests run at once: as many as the window pool will hold when their windows are full.

SGLang counts what requests hold of the window pool now. A window pool of ours is a few windows for every
request that the full pool is meant for, and short requests come in greater numbers: counted so, they are
admitted until the pool is full, and from then on retracted at every step.

A long prompt is prefilled in pieces that fit into the room that is left. SGLang remembers one such prompt;
with pieces cut by the window pool, it can cut a second one in the same batch, forget the first, and decode it
as if its prompt were complete.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from rlkv.planner import Demand

from .state import state

LEAST_PIECE = 4
"""A prompt begins when there is room for this part of a chunk: small pieces hold up all that decode."""


def one_cut_at_a_time(
    original: Callable[..., Any], adder: Any, req: Any, has_chunked_req: bool, *rest: Any, **options: Any
) -> Any:
    """Admit nothing behind a prompt that is not complete (around ``PrefillAdder.add_one_req``)."""
    from sglang.srt.managers.schedule_policy import AddReqResult

    if has_chunked_req or adder.new_chunked_req is not None:
        return AddReqResult.OTHER
    return original(adder, req, has_chunked_req, *rest, **options)


def no_small_pieces(original: Callable[..., int], adder: Any, *args: Any, **options: Any) -> int:
    """Let a prompt wait for room, unless nobody runs who could give some (around ``_swa_chunk_cap``)."""
    cap = original(adder, *args, **options)
    running = adder.running_batch is not None and len(adder.running_batch.reqs) > 0
    if running and adder.rem_chunk_tokens is not None and cap < adder.rem_chunk_tokens // LEAST_PIECE:
        return 0
    return cap


def reserve_for_running(result: None, adder: Any, *args: Any, **options: Any) -> None:
    """Keep back what running requests will still take (after ``PrefillAdder.__init__``)."""
    if adder.running_batch is not None:
        demand = _demand(adder)
        fresh, settled = demand.slots_per_request, demand.settled_slots
        for req in adder.running_batch.reqs:
            most = fresh if _holds_prefix_window(req) else settled
            tokens = len(req.origin_input_ids) + req.sampling_params.max_new_tokens
            adder.rem_swa_token_offset += max(0, demand.at_most(most, tokens) - _held(req))


def reserve_for_new(
    original: Callable[..., int], adder: Any, extend_input_len: int, max_new_tokens: int, *rest: Any
) -> int:
    """What a new request will take beside its prefill (around ``PrefillAdder._swa_reserved_tokens``)."""
    demand = _demand(adder)
    most = demand.at_most(demand.slots_per_request, extend_input_len + max_new_tokens)
    return max(original(adder, extend_input_len, max_new_tokens, *rest), most)


def no_more_than_it_has(
    original: Callable[..., int], adder: Any, extend_input_len: int, max_new_tokens: int, **options: Any
) -> int:
    """A request takes no more slots than it has tokens (around ``PrefillAdder._swa_budget_for_req``).

    SGLang's sum of prefill and window keeps to that; with what ``reserve_for_new`` puts in the place of the
    window, a prompt nearly as long as the pool would never be admitted.
    """
    tokens = adder.ceil_paged_tokens(extend_input_len + max_new_tokens) + adder.page_size
    return min(original(adder, extend_input_len, max_new_tokens, **options), int(tokens))


def _holds_prefix_window(req: Any) -> bool:
    return req.swa_uuid_for_lock is not None and not req.swa_prefix_lock_released


def _held(req: Any) -> int:
    """Window slots of a running request, its part of the prefix cache included."""
    if req.kv is None:
        return 0
    window = state().settings.window
    begin = max(req.kv.swa_evicted_seqlen, req.cache_protected_len)
    held = max(0, req.seqlen - begin) + min(begin, window.sink_size)
    if _holds_prefix_window(req):
        held += min(req.cache_protected_len, window.recent_size)
    return int(held)


def _demand(adder: Any) -> Demand:
    """What a long request asks of the window pool while it decodes."""
    from sglang.srt.environ import envs

    return Demand(
        window=state().settings.window,
        request_tokens=sys.maxsize,
        page_size=adder.page_size,
        eviction_interval=max(1, envs.SGLANG_SWA_EVICTION_INTERVAL.get()),
        prefill_tokens=0,
    )
