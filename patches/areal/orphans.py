"""Workers do not outlive their controller.

AReaL's local scheduler stops its workers when it is stopped itself. After a ``kill -9`` they, and the servers
they started, would stay: they hold GPUs and ports, and the next start of the run would find no memory.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

import psutil

POLL_S = 1.0


def this_process() -> str:
    """This process as ``host:pid:start``, which no other process will ever be."""
    return f"{os.uname().nodename}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def end_with(controller: str) -> None:
    """End this process and its children when the controller is gone; nothing if it is on another machine.

    Args:
        controller: from ``this_process``; empty for none.
    """
    if not controller or controller.split(":", maxsplit=1)[0] != os.uname().nodename:
        return
    threading.Thread(target=_watch, args=(controller,), daemon=True, name="rlkv-orphans").start()


def _watch(controller: str) -> None:
    _, pid, start = controller.split(":")
    while _lives(int(pid), float(start)):
        time.sleep(POLL_S)
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(1)


def _lives(pid: int, start: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - start) < 0.02 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
