"""What the process of a command needs before torch loads, on a CPU."""

from __future__ import annotations

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's ``mallopt`` (malloc.h)."""

LARGEST_INT = (1 << 31) - 1


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
