"""The process that runs math-verify, and the handle that its users hold.

math-verify can take forever, take all memory or crash, and its own time limits need the main thread. So it
runs in one process of its own, reached over two pipes with a JSON object a line::

    caller   {"gold": ..., "target": ..., "limit_s": ...}   -> worker
    worker   {"correct": ..., "extracted": ..., "reason": ...} -> caller

A plain subprocess rather than ``multiprocessing``, which imports the caller's main module again and is
denied to daemonic processes.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from dataclasses import dataclass
from importlib.util import find_spec

from rlkv.errors import RLKVError

MEMORY_LIMIT_BYTES = 2 * 1024**3
START_LIMIT_S = 120.0


@dataclass(frozen=True)
class Reply:
    """The worker's decision; ``extracted`` is what math-verify took for the target's answer."""

    correct: bool
    extracted: str | None
    reason: str


class Worker:
    """Starts the process when first asked, reuses it, and replaces it after a time-out or a crash.

    Safe to use from threads (one question at a time) and in forked children, which start their own process.
    The process ends with its parent: at the end of its input when idle, by its own alarm when busy.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.stop)

    def ask(self, gold: str, target: str, limit_s: float) -> Reply:
        """Whether ``target`` holds the answer in ``gold``; takes ``limit_s`` at most once it is running."""
        with self._lock:
            process = self._running()
            try:
                _write(process, {"gold": gold, "target": target, "limit_s": limit_s})
                line = _read_line(process, limit_s)
            except BrokenPipeError:
                line = ""
            except BaseException:
                self.stop()  # or the next question would get this one's reply
                raise
            if line:
                return Reply(**json.loads(line))
            self.stop()
        if line is None:
            return Reply(False, None, f"time limit of {limit_s:g} s")
        return Reply(False, None, "math-verify crashed or ran out of memory")

    def stop(self) -> None:
        """Kill the process if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):  # a question that it never read
                        pipe.close()

    def _forget(self) -> None:
        """The process is the parent's, and so may be the thread that holds the lock."""
        self._lock = threading.Lock()
        self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.stop()
        if find_spec("math_verify") is None:
            raise RLKVError("grading this answer needs math-verify: pip install 'rlkv[train]'")
        self._process = process = _start()
        ready = _read_line(process, START_LIMIT_S)
        if not ready or json.loads(ready) != "ready":
            self.stop()
            found = json.loads(ready) if ready else "no sign of life"
            raise RLKVError(f"the grader's math-verify process did not start: {found}")
        return process


def _start() -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-m", "rlkv.grading.math_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env=environment,
    )


def _write(process: subprocess.Popen[str], message: object) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def _read_line(process: subprocess.Popen[str], limit_s: float) -> str | None:
    """The next line, empty if the process ended, None if it said nothing within the limit."""
    assert process.stdout is not None
    poll = select.poll()  # not select(), which fails for descriptors above 1023
    poll.register(process.stdout, select.POLLIN | select.POLLHUP)
    return process.stdout.readline() if poll.poll(limit_s * 1000) else None


WORKER = Worker()
"""The one worker of this process."""
