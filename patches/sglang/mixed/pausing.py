"""A pause that takes milliseconds (around ``TokenizerManager.pause_generation``).

Gates change after every step of training, with responses in flight. SGLang aborts those, and if one has not
ended at once, which none has, looks again a second later. It also takes a server for paused whose scheduler
still holds the last batch, in which an update of the gates is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from .server_info import IDLE, KEY

POLL_S = 0.01


async def pause_soon(original: Callable[..., Awaitable[None]], manager: Any, request: Any) -> None:
    """Abort what runs, and return when every scheduler is idle; other modes are SGLang's."""
    if request.mode == "abort":
        async with manager.is_pause_cond:
            manager.is_pause = True
        while await manager.model_update_lock.is_locked():
            manager.abort_request(abort_all=True)
            await asyncio.sleep(POLL_S)
        while not all(state[KEY][IDLE] for state in await manager.get_internal_state()):
            await asyncio.sleep(POLL_S)
    await original(manager, request)
