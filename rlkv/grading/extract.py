"""Where the final answer stands in a response, and when two answers are the same as written.

Pure text, no computer algebra: what is decided here costs microseconds.
"""

from __future__ import annotations

import re

CLOSING_THINK = "</think>"

_BOXES = (r"\boxed", r"\fbox")
_BRACE = re.compile(r"\\boxed\s*\{|\\fbox\s*\{|\\.|[{}]", re.DOTALL)
"""A box's opening, an escaped character, or a brace."""
_INTEGER = re.compile(r"[+-]?\d{1,100}")
_GROUPED_INTEGER = re.compile(r"[+-]?\d{1,3}(?:(?:,|\\,|\{,\}|\\ )\d{3}){1,30}")
_HEDGE = re.compile(r"\b(?:or|nor|not|either|neither|maybe|perhaps|possibly|probably)\b|n't\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]{4,}")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mbox)\{([^{}\\]*)\}")
_FRACTION = re.compile(r"\\[dt]frac(?![a-zA-Z])")
_SIZING = re.compile(r"\\(?:left|right)(?![a-zA-Z])|\\!")


def final_part(response: str, thinking: bool) -> str | None:
    """What stands after the last ``</think>``; without one the whole response, or None if it had to think."""
    _, closing, final = response.rpartition(CLOSING_THINK)
    return final if closing or not thinking else None


def has_box(text: str) -> bool:
    """Whether a box is opened anywhere, closed or not."""
    return any(token[0].startswith(_BOXES) for token in _BRACE.finditer(text))


def last_box(text: str) -> str | None:
    r"""Content of the last ``\boxed{...}`` (or ``\fbox``) whose braces balance, None without one."""
    opened: list[re.Match[str]] = []
    last: tuple[int, int] | None = None
    for token in _BRACE.finditer(text):
        if token[0] == "{" or token[0].startswith(_BOXES):
            opened.append(token)
        elif token[0] == "}" and opened:
            opening = opened.pop()
            if opening[0] != "{" and (last is None or opening.end() > last[0]):
                last = opening.end(), token.start()
    return None if last is None else text[slice(*last)].strip()


def is_definite(text: str) -> bool:
    """Whether the last line of a text without a box commits itself: "3 or 4" does not, nor does "not 4"."""
    return not _HEDGE.search(text.strip().rpartition("\n")[2])


def decide_as_written(answer: str, found: str) -> bool | None:
    """Whether two answers are equal, or None if that takes algebra.

    Equal text is equal. Two plain integers, or two words, are compared as such: computer algebra would read
    a word of letters as a product, and find a name equal to its anagrams.
    """
    answer, found = _normalise(answer), _normalise(found)
    if answer == found:
        return bool(answer)
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(found):
        return int(answer) == int(found)
    if _WORD.fullmatch(answer) and _WORD.fullmatch(found):
        return answer.casefold() == found.casefold()
    return None


def _normalise(answer: str) -> str:
    """Drop what changes how an answer looks and never what it says."""
    text = answer.strip().strip("$").strip().removesuffix(".")
    text = _SIZING.sub("", _FRACTION.sub(r"\\frac", text))
    whole = _TEXT.fullmatch(text)
    text = " ".join((whole[1] if whole else text).split())
    return re.sub(r"[^\d+-]", "", text) if _GROUPED_INTEGER.fullmatch(text) else text
