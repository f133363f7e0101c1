"""A pause that takes milliseconds (around ``TokenizerManager.pause_generation``).

Gates change after every step of training, with responses in flight. SGLang aborts those, and if one has not
ended at once, which none has, looks again a second later. It also takes a server for paused whose scheduler
still holds the last batch, in which an update of the gates is refused.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from .server_info import IDLE, KEY

logger = logging.getLogger(__name__)

POLL_S = 0.01
ABORT_S = 1.0
"""SGLang aborts once more so often, because a request may have been on its way to the scheduler."""
IDLE_LIMIT_S = 30.0
"""A scheduler that was paused in place before never works off its last batch."""


async def pause_soon(original: Callable[..., Awaitable[None]], manager: Any, request: Any) -> None:
    """Abort what runs, and return when the scheduler is idle; other modes are SGLang's.

    The condition is held throughout, as by SGLang: who wants to continue waits, and is not forgotten.
    """
    if request.mode != "abort":
        await original(manager, request)
        return
    async with manager.is_pause_cond:
        manager.is_pause = True
        await _abort_all(manager)
        await _until_idle(manager)


async def _abort_all(manager: Any) -> None:
    while True:
        manager.abort_request(abort_all=True)
        again = time.monotonic() + ABORT_S
        while await manager.model_update_lock.is_locked():
            if time.monotonic() > again:
                break
            await asyncio.sleep(POLL_S)
        else:
            return


async def _until_idle(manager: Any) -> None:
    end = time.monotonic() + IDLE_LIMIT_S
    while not all(state[KEY][IDLE] for state in await manager.get_internal_state()):
        if time.monotonic() > end:
            logger.warning(
                f"pause: the scheduler is not idle after {IDLE_LIMIT_S:g} s, as after a pause in place"
            )
            return
        await asyncio.sleep(POLL_S)
