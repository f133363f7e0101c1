"""Main module of both sandboxed processes; started by ``rlkv.grading.sandbox.run``.

Arguments: the role (``judge`` or ``candidate``), the id of the parent, seconds of processor time, whether to
isolate (1 or 0), and the descriptors to read from and to write to. The tests or the code are on stdin, the
verdict goes to stdout, and why there is no sandbox to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig

from rlkv.grading.sandbox import isolation
from rlkv.grading.sandbox.candidate import serve
from rlkv.grading.sandbox.judge import Channel, judge

NO_SANDBOX = 3
"""Exit status where the process could not be isolated."""


def main() -> None:
    """Isolate this process and play its role."""
    role = sys.argv[1]
    parent, seconds, isolated, read_from, write_to = map(int, sys.argv[2:])
    text = sys.stdin.buffer.read().decode()
    verdict = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        _confine(parent, bool(isolated), seconds)
    except OSError as error:
        print(error.strerror or error, file=sys.stderr, flush=True)
        os._exit(NO_SANDBOX)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    # What lies outside the sandbox is not there any more; a working folder was never on the path.
    sys.path[:] = [sysconfig.get_path("stdlib"), f"{sysconfig.get_path('platstdlib')}/lib-dynload"]
    incoming, outgoing = os.fdopen(read_from, "rb"), os.fdopen(write_to, "wb")
    if role == "candidate":
        os.close(verdict)
        serve(text, incoming, outgoing)
    else:
        passed, reason = judge(text, Channel(outgoing, incoming))
        os.write(verdict, json.dumps({"passed": passed, "reason": reason}).encode() + b"\n")
    os._exit(0)


def _confine(parent: int, isolated: bool, cpu_seconds: int) -> None:
    isolation.die_with_parent()
    if os.getppid() != parent:
        os._exit(0)
    if isolated:
        isolation.enter_namespaces()
        _fork_first_process()
    isolation.limit_resources(cpu_seconds)


def _fork_first_process() -> None:
    """Go on in the first process of the new process namespace; with it the kernel ends all others there."""
    go_on, alive = os.pipe()
    child = os.fork()
    if child:
        os.write(alive, b"1")
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    os.close(alive)
    isolation.give_up_privileges()
    isolation.die_with_parent()  # only now: a change of user takes the setting away
    if not os.read(go_on, 1):  # the parent was gone before
        os._exit(0)
    os.close(go_on)


if __name__ == "__main__":
    main()
