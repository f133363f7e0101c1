"""What stands below a problem, so that the answer can be found."""

from __future__ import annotations

from rlkv.data import BOXED_INSTRUCTION

LETTER_INSTRUCTION = (
    r"Please reason step by step, and put the letter of the right option within \boxed{}, such as \boxed{A}."
)
CODE_INSTRUCTION = "Please reason step by step, and put the whole final code into one ```python block."


def boxed(problem: str) -> str:
    """A problem of mathematics as a user's message."""
    return f"{problem.strip()}\n\n{BOXED_INSTRUCTION}"
