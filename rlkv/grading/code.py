"""Code that must pass tests: found in a response, run in a sandbox."""

from __future__ import annotations

import re

from rlkv.grading.extract import CLOSING_THINK, final_part
from rlkv.grading.sandbox import run_tests
from rlkv.grading.verdict import Verdict

TIME_LIMIT_S = 10.0
"""For all tests of one answer; right solutions take milliseconds."""

_FENCE = re.compile(r"[ \t]*```[ \t]*(\w*)")
_DEFINITION = re.compile(
    r"^[ \t]*(?:async[ \t]+def|def|class)[ \t]+\w|^\w+[ \t]*=[ \t]*lambda\b", re.MULTILINE
)
_PYTHON = ("", "py", "python", "python3")


def grade_code(
    response: str, tests: str, time_limit_s: float = TIME_LIMIT_S, *, thinking: bool = True
) -> Verdict:
    """Run the code of a response against tests (``rlkv.grading.sandbox``).

    The code is the last fenced Python block after the last ``</think>`` that defines something; examples of
    its use may follow.

    Args:
        response: what the model wrote.
        tests: Python statements with asserts.
        time_limit_s: seconds for all tests; code that takes longer is incorrect.
        thinking: False for models without thoughts (``rlkv.grading.grade``).

    Raises:
        RLKVError: the system allows no sandbox.
    """
    final = final_part(response, thinking)
    if final is None:
        return Verdict(False, None, f"no closing {CLOSING_THINK}")
    code = last_definition(final)
    if code is None:
        return Verdict(False, None, "no code block that defines anything")
    passed, reason = run_tests(code, tests, time_limit_s)
    return Verdict(passed, code, reason)


def last_definition(text: str) -> str | None:
    """The last fenced Python block that defines a function or class, None without one."""
    found: str | None = None
    block: list[str] | None = None
    language = ""
    for line in text.splitlines(keepends=True):
        fence = _FENCE.match(line)
        if fence is None:
            if block is not None:
                block.append(line)
        elif block is None or fence[1]:  # an opening inside a block begins anew
            block, language = [], fence[1].lower()
        else:
            code = "".join(block)
            if language in _PYTHON and _DEFINITION.search(code):
                found = code
            block = None
    return found
