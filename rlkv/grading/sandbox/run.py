"""Starts the two sandboxed processes, waits for the verdict, and leaves nothing behind."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from rlkv.errors import RLKVError

ALLOW_UNSANDBOXED = "RLKV_ALLOW_UNSANDBOXED_CODE"
"""Environment variable that, set to 1, runs model code without isolation; worker processes inherit it."""

PROBE_LIMIT_S = 60.0
_PACKAGES = str(Path(__file__).resolve().parents[3])

Process = subprocess.Popen[bytes]


def allow_unsandboxed() -> None:
    """Run model code without isolation from now on, with limits of time and memory alone."""
    os.environ[ALLOW_UNSANDBOXED] = "1"


@cache
def require_sandbox() -> None:
    """Check that model code can be run here.

    Raises:
        RLKVError: this system allows no sandbox, and running without one is not allowed either.
    """
    passed, reason = run_tests("def one():\n    return 1", "assert one() == 1", PROBE_LIMIT_S)
    if not passed:
        raise RLKVError(f"sandbox for model code: the probe ended with {reason!r}, expected it to pass")


def run_tests(code: str, tests: str, time_limit_s: float) -> tuple[bool, str]:
    """Whether code passes tests, and why, decided within the time limit.

    Args:
        code: a Python module, trusted with nothing.
        tests: Python statements with asserts over the code's functions.
        time_limit_s: seconds for all of it, start of the processes included.

    Raises:
        RLKVError: the system allows no sandbox.
    """
    deadline = time.monotonic() + time_limit_s
    asked, ask = os.pipe()
    replies, reply = os.pipe()
    processes: list[Process] = []
    try:
        try:
            processes.append(_start("candidate", code, time_limit_s, asked, reply))
            processes.append(_start("judge", tests, time_limit_s, replies, ask))
        finally:
            for end in (asked, ask, replies, reply):  # theirs alone, so that each sees the other end
                os.close(end)
        line = _read_line(processes[1], deadline)
        if not line:
            _check_isolated(processes)
    finally:
        for process in processes:
            _end(process)
    if line is None:
        return False, f"time limit of {time_limit_s:g} s"
    if not line:
        return False, "the tests ended without a verdict"
    verdict = json.loads(line)
    return verdict["passed"], verdict["reason"]


def _start(role: str, text: str, time_limit_s: float, read_from: int, write_to: int) -> Process:
    isolated = os.environ.get(ALLOW_UNSANDBOXED) != "1"
    arguments = [os.getpid(), math.ceil(time_limit_s) + 1, int(isolated), read_from, write_to]
    command = [sys.executable, "-S", "-P", "-m", "rlkv.grading.sandbox.main", role, *map(str, arguments)]
    with tempfile.TemporaryFile() as stdin:
        stdin.write(text.encode(errors="replace"))
        stdin.seek(0)
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(read_from, write_to),
            # One seed for all, so that the order of a set, and with it a verdict, is the same every time.
            env={"PYTHONPATH": _PACKAGES, "PYTHONHASHSEED": "0"},
            start_new_session=True,
        )


def _read_line(process: Process, deadline: float) -> bytes | None:
    """What the process says, empty if it ended without, None if it said nothing until the deadline."""
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN | select.POLLHUP)
    waiting_ms = max(0.0, deadline - time.monotonic()) * 1000
    return process.stdout.readline() if poll.poll(waiting_ms) else None


def _check_isolated(processes: list[Process]) -> None:
    """Raise if a process could not be isolated; only then is there anything on its stderr."""
    for process in processes:
        _kill(process)
        assert process.stderr is not None
        if lines := process.stderr.read().decode(errors="replace").strip().splitlines():
            expected = f"expected Linux namespaces, or --allow-unsandboxed-code ({ALLOW_UNSANDBOXED}=1)"
            raise RLKVError(f"sandbox for model code: found {lines[-1]}, {expected}")


def _kill(process: Process) -> None:
    """Kill a process and all that it started: its namespace, and without one, its process group.

    Only unisolated code can leave the group (``setsid``).
    """
    # Where the caller ignores SIGCHLD, the kernel has forgotten the process already.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: Process) -> None:
    """Leave nothing of a process behind."""
    _kill(process)  # while it has not been waited for, its number cannot be another group's
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
