"""The letter of a multiple-choice answer: only where a response says that it is its answer.

The first capital letter of a text is nearly always found, and wrong as often as not. So a letter counts only
in a box, behind "the answer is", or alone on the last line; anything else is reported as unparsed.
"""

from __future__ import annotations

import re

from rlkv.grading.extract import CLOSING_THINK, final_part, has_box, last_box
from rlkv.grading.verdict import Verdict

_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_MARKS = re.compile(r"[*_$`]|\\[()]")
_LETTER = re.compile(r"\(?([A-Z])\)?\.?")
_IN_BOX = re.compile(r"\(?([A-Za-z])(?:\)?\.?|[).:]\s*\S.*)", re.DOTALL)
"""A letter, perhaps in brackets, perhaps with the text of its option behind a separator."""
_ANNOUNCED = re.compile(
    r"\b(?:answer(?:\s+is)?|(?:correct|right)\s+(?:option|choice)\s+is)\s*:?\s*"
    r"(?:(?:option|choice)\s+)?"
    r"(?:\(([A-Z])\)|([A-Z])(?=\s*(?:[.,;:)]|$)))"
    r"(?!\s*(?:,\s*|/\s*)?\(?(?:or|and|nor|[A-Z])\b)",
    re.MULTILINE | re.IGNORECASE,
)


def grade_letter(response: str, answer: str, *, thinking: bool = True) -> Verdict:
    r"""Compare the letter that a response gives with the right one.

    Only what stands after the last ``</think>`` counts: its last ``\boxed{...}``, or else the last "the
    answer is (X)", or else a last line that is a letter.

    Args:
        response: what the model wrote.
        answer: the right letter.
        thinking: False for models without thoughts (``rlkv.grading.grade``).
    """
    final = final_part(response, thinking)
    if final is None:
        return Verdict(False, None, f"no closing {CLOSING_THINK}")
    letter = find_letter(final)
    if letter is None:
        return Verdict(False, None, "no letter given as the answer" if final.strip() else "empty answer")
    return Verdict(letter == answer.strip().upper(), letter, f"answers {letter}")


def find_letter(text: str) -> str | None:
    """The letter that a text gives as its answer, as a capital, None where it gives none or several."""
    if has_box(text):
        boxed = _IN_BOX.fullmatch(_plain(last_box(text) or ""))
        return boxed[1].upper() if boxed else None
    if announced := list(_ANNOUNCED.finditer(_plain(text))):
        return (announced[-1][1] or announced[-1][2]).upper()
    alone = _LETTER.fullmatch(_plain(text).rpartition("\n")[2].strip())
    return alone[1] if alone else None


def _plain(text: str) -> str:
    return _MARKS.sub("", _WRAPPED.sub(r"\1", text)).strip()
