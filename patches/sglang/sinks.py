"""Sinks keep their window slots while requests run: freeing starts after them, the leak check counts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .state import state


def free_after_sinks(original: Callable[..., None], req: Any, pre_len: int, **options: Any) -> None:
    """Free the window slots of tokens that left the window (around ``free_swa_out_of_window_slots``).

    SGLang frees from the first token on. Its floor, below which nothing is freed, is set behind the sinks;
    while the window still touches them there is nothing to free, and the floor must not count as freed.
    """
    if req.kv is None:
        return
    state().observed.add(pre_len)
    sinks = state().settings.sink_slots(options["page_size"])
    if pre_len - options["sliding_window_size"] <= sinks:
        return
    req.swa_evict_floor = max(req.swa_evict_floor, sinks)
    begin = max(req.kv.swa_evicted_seqlen, req.cache_protected_len, sinks)
    original(req, pre_len, **options)
    state().freed_tokens += max(0, req.kv.swa_evicted_seqlen - begin)


def uncached_with_sinks(result: tuple[int, int], checker: Any) -> tuple[int, int]:
    """Count what SGLang's leak check leaves out (after ``_get_total_uncached_sizes``).

    It takes all tokens before ``swa_evicted_seqlen`` for freed; the sinks among them are not. It also looks
    at the last and the running batch alone, and a prompt that waits between two of its chunks for window
    slots is in neither: the pages of its tokens that are not in the prefix cache yet are still its own.
    """
    full, window = result
    batches = (checker.get_last_batch(), checker.get_running_batch())
    counted = {id(req): req for batch in batches if batch is not None for req in batch.reqs}
    waiting = state().scheduler.chunked_req
    if waiting is not None and waiting.kv is not None and id(waiting) not in counted:
        counted[id(waiting)] = waiting
        held = -(-waiting.kv.kv_allocated_len // checker.page_size) * checker.page_size
        full += held - waiting.cache_protected_len
        window += held - max(waiting.cache_protected_len, waiting.kv.swa_evicted_seqlen)
    sinks = state().settings.sink_slots(checker.page_size)
    return full, window + sum(_own_sinks(req, sinks) for req in counted.values())


def _own_sinks(req: Any, sinks: int) -> int:
    """Window slots of a request's sinks that the prefix cache does not hold and SGLang takes for freed."""
    if req.kv is None:
        return 0
    return int(max(0, min(sinks, req.kv.swa_evicted_seqlen) - req.cache_protected_len))
