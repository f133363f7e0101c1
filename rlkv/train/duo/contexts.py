"""Contexts to distil on: token ids, and which of them are the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import cast

import torch
from transformers import PreTrainedTokenizerBase

from rlkv.errors import ConfigError, DataError
from rlkv.generation import chat_prompt
from rlkv.tiny.problems import generate
from rlkv.tiny.words import NAMES
from rlkv.train.duo.config import ContextKind, DuoConfig
from rlkv.train.duo.filler import sentences_of

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
END_OF_THOUGHT = "</think>"


@dataclass(frozen=True)
class Context:
    """One text, ending with its answer.

    Attributes:
        token_ids: of the chat prompt and the answer.
        is_answer: of each token, whether the distillation looks at it.
    """

    token_ids: tuple[int, ...]
    is_answer: tuple[bool, ...]


Contexts = Callable[[int], Context]
"""Context number n of a run; the same number always gives the same context."""


def contexts_of(config: DuoConfig, tokenizer: PreTrainedTokenizerBase) -> Contexts:
    """The contexts that a run asks for.

    Raises:
        ConfigError: the tokenizer has no chat template, or the passkeys alone are longer than a context.
        DataError: the filler cannot be read.
    """
    if tokenizer.chat_template is None:
        raise ConfigError(f"{config.model}: its tokenizer has no chat template, expected a chat model")
    if config.contexts is ContextKind.TINY:
        return TinyContexts(tokenizer, config.level, config.seed)
    return PasskeyContexts(tokenizer, config)


def collate(contexts: Sequence[Context]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad on the right, which a causal model does not see.

    Returns:
        int64 [B, T] token ids, and bool [B, T]: positions whose next token belongs to the answer.
    """
    width = max(len(context.token_ids) for context in contexts)
    ids = torch.zeros(len(contexts), width, dtype=torch.long)
    answer = torch.zeros(len(contexts), width, dtype=torch.bool)
    for row, context in enumerate(contexts):
        length = len(context.token_ids)
        ids[row, :length] = torch.tensor(context.token_ids)
        answer[row, : length - 1] = torch.tensor(context.is_answer[1:])
    return ids, answer


class TinyContexts:
    """Problems of the tiny task with the solution that the model writes itself: it solves practically all."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, level: str, seed: int) -> None:
        self.tokenizer = tokenizer
        self.level = level
        self.seed = seed

    def __call__(self, number: int) -> Context:
        problem = next(generate(self.level, "train", self.seed * 1_000_000_007 + number))
        prompt = _encode(self.tokenizer, chat_prompt(self.tokenizer, problem.prompt))
        solution = _encode(self.tokenizer, problem.solution + cast(str, self.tokenizer.eos_token))
        return _join([(prompt, False), (solution, True)])


class PasskeyContexts:
    """Passkeys hidden in natural text; the question asks for all of them, the answer repeats them in order.

    Args:
        tokenizer: with a chat template.
        config: of the run.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: DuoConfig) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.sentences = [(text, len(_encode(tokenizer, " " + text))) for text in _filler(config.filler)]
        bare = len(self._build(Random(0), tokens=0).token_ids)
        if bare > config.min_tokens:
            raise ConfigError(
                f"training: min_tokens is {config.min_tokens}, expected at least {bare}, "
                f"which {config.passkeys} passkeys of {config.passkey_words} words take alone"
            )

    def __call__(self, number: int) -> Context:
        rng = Random(f"passkeys/{self.config.seed}/{number}")
        return self._build(rng, rng.randint(self.config.min_tokens, self.config.max_tokens))

    def _build(self, rng: Random, tokens: int) -> Context:
        """A context of at most about ``tokens`` tokens; without room for filler, of the passkeys alone."""
        keys = [rng.choices(NAMES, k=self.config.passkey_words) for _ in range(self.config.passkeys)]
        answer = self._answer(keys)
        notes = [f"Remember: the {_ordinal(i)} passkey is {' '.join(key)}." for i, key in enumerate(keys)]
        taken = sum(len(ids) for ids, _ in answer) + len(self._prompt(notes))
        body = _hide(notes, self._draw_filler(rng, tokens - taken), rng)
        return _join([(self._prompt(body), False), *answer])

    def _draw_filler(self, rng: Random, tokens: int) -> list[str]:
        """Sentences in a row from a random place on, round the end, of at most ``tokens`` tokens together."""
        begin = rng.randrange(len(self.sentences))
        total = sum(count for _, count in self.sentences)
        rounds = self.sentences * (2 + max(tokens, 0) // total)
        ends = accumulate(count for _, count in rounds[begin:])
        return [text for (text, _), end in zip(rounds[begin:], ends, strict=False) if end <= tokens]

    def _prompt(self, body: Sequence[str]) -> list[int]:
        message = (
            f"The text below hides {self.config.passkeys} passkeys. Keep them in mind while you read.\n\n"
            f"{' '.join(body)}\n\nNow write down all passkeys in their order."
        )
        text = chat_prompt(self.tokenizer, message)
        # A template that opens a thought wants it closed: the answer is about reading, not reasoning.
        opened = text.rstrip().endswith("<think>")
        return _encode(self.tokenizer, text + (f"\n{END_OF_THOUGHT}\n\n" if opened else ""))

    def _answer(self, keys: Sequence[Sequence[str]]) -> list[tuple[list[int], bool]]:
        """Pieces of the answer; only the words of passkeys count, not the frame around them."""
        pieces = []
        for index, key in enumerate(keys):
            frame = f"The {_ordinal(index)} passkey is"
            pieces.append((_encode(self.tokenizer, frame if index == 0 else f".\n{frame}"), False))
            pieces.append((_encode(self.tokenizer, " " + " ".join(key)), True))
        return pieces


def _filler(path: str) -> list[str]:
    """Sentences of a text file, or our own."""
    if not path:
        return sentences_of(Path(__file__).with_name("filler.txt").read_text(encoding="utf-8"))
    try:
        found = sentences_of(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise DataError(f"{path}: filler cannot be read: {reason}") from error
    if not found:
        raise DataError(f"{path}: filler has no sentence, expected natural text")
    return found


def _hide(notes: Sequence[str], filler: Sequence[str], rng: Random) -> list[str]:
    """The notes in their order at random places between the sentences."""
    places = sorted(rng.randint(0, len(filler)) for _ in notes)
    body = list(filler)
    for place, note in reversed(list(zip(places, notes, strict=True))):
        body.insert(place, note)
    return body


def _ordinal(index: int) -> str:
    return ORDINALS[index] if index < len(ORDINALS) else f"number {index + 1}"


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return cast(list[int], tokenizer(text, add_special_tokens=False)["input_ids"])


def _join(pieces: Sequence[tuple[list[int], bool]]) -> Context:
    ids = tuple(token for piece, _ in pieces for token in piece)
    return Context(ids, tuple(counts for piece, counts in pieces for _ in piece))
