"""Runs a model's code against tests, neither of them trusted with the machine.

Two processes, each in namespaces of its own, joined by two pipes and nothing else::

    run.py        here         starts both, waits at most the time limit, reads the verdict, kills both
    judge.py      sandboxed    holds the tests; every function of the code is a proxy
    candidate.py  sandboxed    holds the model's code; calls its functions with the arguments it is sent
    values.py     both         plain data on the pipe: no object of the model's code ever reaches the tests
    isolation.py  both         namespaces, file system, user and limits

So the code can neither see the tests nor change what ``assert`` or ``==`` mean in them, and what it prints,
exits with or leaves behind has no way to become a verdict.
"""

from rlkv.grading.sandbox.run import ALLOW_UNSANDBOXED, allow_unsandboxed, require_sandbox, run_tests

__all__ = ["ALLOW_UNSANDBOXED", "allow_unsandboxed", "require_sandbox", "run_tests"]
