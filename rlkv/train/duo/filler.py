"""Natural text cut into sentences."""

from __future__ import annotations

import re


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, white space within them single."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return [s for paragraph in paragraphs for s in re.split(r"(?<=[.!?])\s+", paragraph) if s]
