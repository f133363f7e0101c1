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
    """Count the sinks that requests hold themselves (after ``_get_total_uncached_sizes``).

    SGLang takes all tokens before ``swa_evicted_seqlen`` for freed; the sinks among them are not.
    """
    full, window = result
    sinks = state().settings.sink_slots(checker.page_size)
    batches = {id(batch): batch for batch in (checker.get_last_batch(), checker.get_running_batch())}
    for batch in batches.values():
        for req in batch.reqs if batch is not None else ():
            if req.kv is not None and req.kv.swa_evicted_seqlen > req.cache_protected_len:
                window += max(0, min(sinks, req.kv.swa_evicted_seqlen) - req.cache_protected_len)
    return full, window
