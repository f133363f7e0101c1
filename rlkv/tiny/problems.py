"""The tiny reasoner's task: find the definitions that matter among distractors, then evaluate them.

A problem is a shuffled list of variable definitions and a question about one variable. Its solution first
walks from the question to the constants, quoting each definition that matters, then evaluates them in the
opposite order, quoting each again. Both walks look far back, at the prompt and at the model's own words, so
a model that forgets them cannot answer.

Splits are disjoint by construction: the hash of a problem's text decides the one split it belongs to, and
the generator of a split draws until it gets a problem of that split.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from rlkv.errors import ConfigError
from rlkv.tiny.words import NAMES
from rlkv.window import Window

MODULUS = 10
OPERATIONS = ("+", "-", "*")
TWO_NAMES_SHARE = 0.25
"""Share of the chain's definitions that combine two names rather than a name and a digit."""

DEFAULT_LEVEL = "medium"

TINY_WINDOW = Window(4, 28)
"""Window of the tiny reasoner's streaming heads: a tenth of a medium problem, between two and three lines."""


@dataclass(frozen=True)
class Level:
    """Difficulty: definitions listed, and the range of how many of them the answer needs."""

    num_definitions: int
    chain: tuple[int, int]


LEVELS = {
    "easy": Level(10, (2, 4)),
    "medium": Level(24, (4, 10)),
    "hard": Level(40, (10, 16)),
    "expert": Level(60, (16, 28)),
}

SPLIT_BUCKETS = {"test": range(0, 16), "validation": range(16, 24), "train": range(24, 256)}
"""First byte of a problem's SHA-256 → split."""


@dataclass(frozen=True)
class Definition:
    """``name = left`` or ``name = left operation right``; operands are names or digits."""

    name: str
    left: str
    operation: str | None = None
    right: str | None = None

    @property
    def expression(self) -> str:
        return self.left if self.operation is None else f"{self.left} {self.operation} {self.right}"

    def __str__(self) -> str:
        return f"{self.name} = {self.expression}"

    def evaluate(self, values: dict[str, int]) -> tuple[str, int]:
        """The expression with numbers put in, and its value modulo 10."""
        left = values[self.left] if self.left in values else int(self.left)
        if self.operation is None or self.right is None:
            return str(left), left
        right = values[self.right] if self.right in values else int(self.right)
        result = {"+": left + right, "-": left - right, "*": left * right}[self.operation]
        return f"{left} {self.operation} {right}", result % MODULUS


@dataclass(frozen=True)
class Problem:
    """One problem with its only right solution.

    Attributes:
        definitions: as listed in the prompt.
        chain: the definitions that matter, from the question's to the constant.
    """

    level: str
    definitions: tuple[Definition, ...]
    chain: tuple[Definition, ...]

    @property
    def prompt(self) -> str:
        """The user's message."""
        listing = "\n".join(f"- {d}" for d in self.definitions)
        return f"Every result is taken modulo {MODULUS}.\n{listing}\nWhat is {self.chain[0].name}?"

    @property
    def answer(self) -> str:
        values = self._values()
        return str(values[self.chain[0].name])

    @property
    def solution(self) -> str:
        """The assistant's message after the opening ``<think>`` of the chat template."""
        find = [f"- {d}, need {d.left}" if d.operation else f"- {d}, known" for d in self.chain]
        values = self._values()
        evaluate = []
        for definition in reversed(self.chain):
            numbers, result = definition.evaluate(values)
            steps = f" = {numbers} = {result}" if definition.operation else ""
            evaluate.append(f"- {definition}{steps}")
        return "\n".join(
            [
                "Find the definitions that matter:",
                *find,
                "Evaluate from the end:",
                *evaluate,
                "</think>",
                f"The answer is \\boxed{{{self.answer}}}.",
            ]
        )

    @property
    def split(self) -> str:
        first_byte = hashlib.sha256(self.prompt.encode()).digest()[0]
        return next(name for name, bucket in SPLIT_BUCKETS.items() if first_byte in bucket)

    def _values(self) -> dict[str, int]:
        values: dict[str, int] = {}
        for definition in reversed(self.chain):
            values[definition.name] = definition.evaluate(values)[1]
        return values


def generate(level: str, split: str, seed: int) -> Iterator[Problem]:
    """Endless problems of one level and split; the same arguments always give the same problems.

    Raises:
        ConfigError: an unknown level or split.
    """
    for kind, name, known in (("level", level, LEVELS), ("split", split, SPLIT_BUCKETS)):
        if name not in known:
            raise ConfigError(f"tiny task: {kind} is {name!r}, expected one of {', '.join(known)}")
    rng = random.Random(f"{level}/{split}/{seed}")
    while True:
        problem = _draw(level, rng)
        if problem.split == split:
            yield problem


def _draw(level: str, rng: random.Random) -> Problem:
    spec = LEVELS[level]
    length = rng.randint(*spec.chain)
    names = rng.sample(NAMES, spec.num_definitions)
    chain = _draw_chain(names[:length], rng)
    distractors = [_draw_distractor(names, i, rng) for i in range(length, spec.num_definitions)]
    definitions = [*chain, *distractors]
    rng.shuffle(definitions)
    return Problem(level, tuple(definitions), tuple(chain))


def _draw_chain(names: list[str], rng: random.Random) -> list[Definition]:
    """Each definition needs the next name, and at times a later one too; the last is a digit."""
    chain = []
    for i, name in enumerate(names[:-1]):
        later = names[i + 2 :]
        right = rng.choice(later) if later and rng.random() < TWO_NAMES_SHARE else str(rng.randint(1, 9))
        chain.append(Definition(name, names[i + 1], rng.choice(OPERATIONS), right))
    return [*chain, Definition(names[-1], str(rng.randint(0, 9)))]


def _draw_distractor(names: list[str], index: int, rng: random.Random) -> Definition:
    """Looks like a definition of the chain and may use its names, but nothing in the chain uses it."""
    name, earlier = names[index], names[:index]
    kind = rng.random()
    if kind < 0.15:
        return Definition(name, str(rng.randint(0, 9)))
    right = rng.choice(earlier) if kind < 0.15 + TWO_NAMES_SHARE else str(rng.randint(1, 9))
    return Definition(name, rng.choice(earlier), rng.choice(OPERATIONS), right)
