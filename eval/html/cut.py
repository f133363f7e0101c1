"""Deflates texts, and cuts long ones so that all of them deflate to a given size.

How much to cut is computed: texts are deflated whole once, and twice as an estimate cuts them, because short
ones deflate less well than long ones. Of hundreds of megabytes that is done with a part.
"""

from __future__ import annotations

import base64
import json
import random
import zlib
from collections.abc import Sequence
from typing import Any

PROMPT_LEAST = 2000
"""Characters that a prompt keeps at least: how it begins and, at its end, what it asks."""

ANSWER_LEAST = 200
"""Characters that an answer keeps at least: shorter ones say nothing, and the figures beside take more."""

SAFETY = 0.95
"""Share of the size that is aimed at: the estimate is one."""

MEASURED = 8_000_000
"""Characters that are deflated to tell the size of all: some seconds of work."""

MARKER = "\n\n[… {} characters left out …]\n\n"
MARKER_ROOM = 50
"""Most characters of a marker."""


def packed(data: Any) -> str:
    """JSON, deflated and in base64."""
    return base64.b64encode(zlib.compress(json.dumps(data, ensure_ascii=False).encode(), 9)).decode()


def fitted(prompts: Sequence[str], answers: Sequence[str], room: int) -> tuple[list[str], list[str]]:
    """Prompts and answers that together take ``room`` characters when packed, as far as cutting gets there.

    Prompts are cut first, and answers only where the prompts at their least leave too little room.
    """
    answers_size = _size(answers)
    prompts_size = _size(prompts)
    if prompts_size + answers_size <= room:
        return list(prompts), list(answers)
    short, short_size = _shortened(prompts, prompts_size, SAFETY * room - answers_size, PROMPT_LEAST)
    return short, _shortened(answers, answers_size, SAFETY * room - short_size, ANSWER_LEAST)[0]


def cut(text: str, longest: int) -> str:
    """Head and tail of a text, and between them how much was left out; never more than ``longest``."""
    if len(text) <= longest:
        return text
    half = (longest - MARKER_ROOM) // 2
    return text[:half] + MARKER.format(len(text) - 2 * half) + text[-half:]


def water_level(lengths: Sequence[int], total: float) -> int:
    """The limit to each length under which they sum up to ``total``; those below it stay as they are."""
    for place, length in enumerate(ordered := sorted(lengths)):
        level = int(total / (len(ordered) - place))
        if length > level:
            return level
        total -= length
    return max(lengths, default=0)


def _shortened(texts: Sequence[str], size: int, room: float, least: int) -> tuple[list[str], int]:
    """Texts cut to ``room``, none to less than ``least`` characters, and their size.

    Args:
        size: of the texts as they are.
    """
    if size <= room:
        return list(texts), size
    lengths = [len(text) for text in texts]
    short: list[str] = list(texts)
    for _ in range(2):
        characters = sum(map(len, short)) * max(room, 0) / size
        longest = max(least, water_level(lengths, characters))
        short = [cut(text, longest) for text in texts]
        size = _size(short)
    return short, size


def _size(texts: Sequence[str]) -> int:
    """Characters of the packed texts; of very many, what a random part of them lets expect."""
    total = left = sum(map(len, texts))
    if total <= MEASURED:
        return len(packed(texts))
    part: list[str] = []
    for text in random.Random(0).sample(texts, len(texts)):
        if total - left >= MEASURED:
            break
        part.append(text)
        left -= len(text)
    return round(len(packed(part)) * total / (total - left))
