"""Runs a command that the kernel kills as soon as the process that started it is gone, ``kill -9`` included.

::

    python -m rlkv.tethered PARENT COMMAND ARGUMENT...

PARENT is the id of the starting process. The command takes this process over, its id too.

Two limits of Linux's parent death signal: it comes when the THREAD that started the command ends, so start it
from a thread that lives as long as it is needed; and it reaches the command alone, not what that starts
(SGLang's own processes ask for the same signal). Other systems have none: there the command just runs.
"""

from __future__ import annotations

import os
import sys

from rlkv.grading.sandbox.isolation import die_with_parent


def main() -> None:
    """Ask for the signal, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        die_with_parent()
    if os.getppid() != parent:  # it ended before the signal was asked for
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
