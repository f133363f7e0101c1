"""One answer to a prompt, alike whichever engine gave it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What a model wrote, and what its cache held for it.

    Attributes:
        index: position of the prompt in the list that was asked.
        text: decoded without special tokens other than the model's own think tags.
        token_ids: new tokens, the end-of-sequence token included where the model wrote one.
        prompt_length: tokens of the prompt.
        finish_reason: ``stop`` or, at the token limit, ``length``.
        seed: of its sampling, None where greedy.
        kv_bytes: bytes of keys and values held for it at its end.
        cached_tokens: tokens that those bytes stand for.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    prompt_length: int
    finish_reason: str
    seed: int | None
    kv_bytes: float
    cached_tokens: int
