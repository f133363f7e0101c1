"""What left the windows is freed for all requests in one go (around ``ScheduleBatch.maybe_evict_swa``).

SGLang frees request by request, and every time waits for the device to say how many slots those are: cheap
for windows of thousands of tokens that are looked at every 128 steps, not for ours. It also counts prefills
among the steps, so that it may miss its turn; here every decode step counts, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .state import state


def evict_together(original: Callable[[Any], None], batch: Any) -> None:
    """Collect what SGLang frees from the requests of a batch, then free it."""
    from sglang.srt.environ import envs

    if batch.forward_mode.is_decode():
        state().decode_steps += 1
    due = state().decode_steps % max(1, envs.SGLANG_SWA_EVICTION_INTERVAL.get()) == 0
    iteration, batch.forward_iter = batch.forward_iter, 0 if due else 1  # SGLang looks at multiples
    allocator = batch.token_to_kv_pool_allocator
    collected: list[torch.Tensor] = []
    allocator.free_swa = collected.append  # hides the method of the class
    try:
        original(batch)
    finally:
        del allocator.free_swa
        batch.forward_iter = iteration
        if collected:
            allocator.free_swa(torch.cat(collected))
