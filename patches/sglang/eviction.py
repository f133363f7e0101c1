"""What left the windows is freed for all requests in one go (around ``ScheduleBatch.maybe_evict_swa``).

SGLang frees request by request, and every time waits for the device to say how many slots those are: cheap
for windows of thousands of tokens that are looked at every 128 steps, not for ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def evict_together(original: Callable[[Any], None], batch: Any) -> None:
    """Collect what SGLang frees from the requests of a batch, then free it."""
    allocator = batch.token_to_kv_pool_allocator
    collected: list[torch.Tensor] = []
    allocator.free_swa = collected.append  # hides the method of the class
    try:
        original(batch)
    finally:
        del allocator.free_swa
        if collected:
            allocator.free_swa(torch.cat(collected))
