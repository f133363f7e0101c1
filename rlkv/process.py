"""What the process of a command needs before it begins: how it uses a CPU, and how it ends."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from types import FrameType

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's ``mallopt`` (malloc.h)."""

LARGEST_INT = (1 << 31) - 1

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""What a scheduler, ``kill`` and a closed terminal send."""


def prepare_for_cpu() -> None:
    """Let torch's idle threads sleep, and let freed memory be used again.

    Idle threads would spin: on a machine that does anything else besides, a step on the CPU then takes
    several times as long. And glibc hands large blocks back to the kernel as soon as they are freed: torch
    asks for the same sizes at every decode step, and clearing those pages anew took 45% of the CPU time of
    ``rlkv eval run``.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST_INT)


def end_in_order() -> None:
    """Let SIGTERM and SIGHUP end this process as an exception does, through every ``finally``.

    Python's own default ends it at once: servers and worker processes that it started would stay. A signal
    that is ignored (``nohup``) stays ignored.
    """
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    """Raise once: a closed terminal sends its signal twice, and the second would break off the clean-up."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)
