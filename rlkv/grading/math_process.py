"""Main module of the grader's worker process (``rlkv.grading.worker``): answers until its input ends."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any, TextIO

from rlkv.grading.worker import MEMORY_LIMIT_BYTES

ALARM_GRACE_S = 0.5
"""Seconds past the limit at which a busy process ends itself, should its caller be gone."""


def main() -> None:
    """Read questions from stdin, write replies to what was stdout; see ``rlkv.grading.worker``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who ends the input
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel ends us even inside one long multiplication
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print must not write between replies
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    try:
        compare("\\boxed{1}", "\\boxed{1.0}")
    except Exception as error:
        _send(replies, f"{type(error).__name__}: {error}")
        return
    _send(replies, "ready")
    for line in sys.stdin:
        question = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, question["limit_s"] + ALARM_GRACE_S)
        reply = compare(question["gold"], question["target"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(replies, reply)


def compare(gold: str, target: str) -> dict[str, Any]:
    """The fields of ``rlkv.grading.worker.Reply`` for one question."""
    from math_verify import parse, verify

    # parse() gives the expressions it read, then the text it read them from; or nothing.
    found = parse(target, parsing_timeout=None)
    if not found:
        return {"correct": False, "extracted": None, "reason": "no answer found"}
    correct = verify(parse(gold, parsing_timeout=None), found, timeout_seconds=None)
    reason = "equal by math-verify" if correct else "differs"
    return {"correct": correct, "extracted": str(found[-1]), "reason": reason}


def _send(replies: TextIO, message: object) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
