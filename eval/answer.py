"""One answer to a prompt, and what gives answers: a model in process, or a server."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlkv.generation import CacheRecipe


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
        kv_bytes: most bytes of keys and values held for it at any step.
        kv_mean_bytes: the same, its mean over the steps.
        cached_tokens: tokens of its sequence, the last one left out: it is never an input.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    prompt_length: int
    finish_reason: str
    seed: int | None
    kv_bytes: float
    kv_mean_bytes: float
    cached_tokens: int


class Answerer(Protocol):
    """What a comparison asks.

    Attributes:
        unit: answers that belong together: where a kill left fewer of them, all are given again.
    """

    unit: int

    def settings(self) -> dict[str, Any]:
        """Every setting of the engine that changes an answer, as JSON values."""

    def answer(
        self,
        problems: Sequence[str],
        recipe: CacheRecipe | None,
        max_new_tokens: int,
        done: Collection[int],
    ) -> Iterator[list[Answer]]:
        """Answer users' messages.

        Args:
            problems: messages.
            recipe: of the cache, None for the stock one.
            max_new_tokens: token limit of an answer.
            done: positions of the messages that need no answer.

        Yields:
            Some answers, as soon as they are there; in the messages' order where ``unit`` is above 1.
        """

    def close(self) -> None:
        """Free what the engine holds."""
