"""Tells answers of different kinds apart before algebra compares them.

math-verify reads generously: it drops an inequality sign, a base and a unit, and takes a set for a pair.
What it so finds equal would be rewarded, so two answers whose kinds differ are told apart here.
"""

from __future__ import annotations

import re

_RELATION = re.compile(
    r"[<>≤≥≠∨∧]|\\(?:leq?|geq?|leqslant|geqslant|lt|gt|neq?|lor|land|vee|wedge)(?![a-zA-Z])|\\not(?![a-zA-Z])"
)
_BRACKET = re.compile(r"[\[(]|\\cup(?![a-zA-Z])")
_BASED = re.compile(r"([0-9A-Za-z]+)_(?:(\d)|\{\s*(\d+)\s*\})")
_UNIT = re.compile(r"[-+\d.,/]+(?:\\[ ,;!]|\s)*\\(?:text|mathrm|mbox)\{\s*([A-Za-z]+)\.?\s*\}(?:\^\{?\d\}?)?")
_SET = ((r"\{", r"\lbrace"), (r"\}", r"\rbrace"))

ABBREVIATION = 3
"""Letters of the longest unit symbol: up to here units are the same only as written (``m``, ``km``)."""


def differ_in_kind(answer: str, found: str) -> bool:
    """Whether two answers cannot be equal because of what they are, whatever their numbers.

    Args:
        answer: the right one, in LaTeX or plain text.
        found: the response's.
    """
    return (
        _relations_differ(answer, found)
        or _bases_differ(answer, found)
        or _set_against_tuple(answer, found)
        or _set_against_tuple(found, answer)
        or _units_differ(answer, found)
    )


def _relations_differ(answer: str, found: str) -> bool:
    """One of them is an inequality, and the other neither that nor an interval, which may say the same."""
    related = [bool(_RELATION.search(text)) for text in (answer, found)]
    other = found if related[0] else answer
    return related[0] != related[1] and not _BRACKET.search(other)


def _bases_differ(answer: str, found: str) -> bool:
    """Both are numerals with a base, and not the same ones."""
    numerals = [_BASED.fullmatch(text.strip()) for text in (answer, found)]
    values = {(match[1], match[2] or match[3]) for match in numerals if match}
    return all(numerals) and len(values) > 1


def _set_against_tuple(one: str, other: str) -> bool:
    """One is a set of several, the other a pair or interval."""
    one, other = (re.sub(r"\\(?:left|right)(?![a-zA-Z])", "", text).strip() for text in (one, other))
    is_set = one.startswith(_SET[0]) and one.endswith(_SET[1]) and "," in one
    inside = other[1:-1]
    return is_set and other[:1] in {"(", "["} and "," in inside and not set(inside) & set("()[]{}")


def _units_differ(answer: str, found: str) -> bool:
    """Both are a number with a unit of one word, and the units cannot be spellings of one another."""
    first, second = _UNIT.fullmatch(answer.strip()), _UNIT.fullmatch(found.strip())
    if first is None or second is None:
        return False
    one, other = first[1].lower(), second[1].lower()
    if max(len(one), len(other)) <= ABBREVIATION:
        return one != other
    return one[0] != other[0]
