"""How many samples of which response length make a training set, and the order they are trained in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from rlkv.errors import ConfigError


@dataclass(frozen=True)
class Sample:
    """A problem that the model solved.

    Attributes:
        prompt: the user's text.
        answer: the right answer.
        response_length: tokens of the model's response.
    """

    prompt: str
    answer: str
    response_length: int


@dataclass(frozen=True)
class Bucket:
    """Samples wanted of one range of response lengths: more than ``min_tokens``, at most ``max_tokens``.

    Raises:
        ConfigError: no sample is wanted or none can be.
    """

    count: int
    min_tokens: int
    max_tokens: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.min_tokens >= self.max_tokens:
            raise ConfigError(
                f"bucket {self}: expected COUNT:MIN-MAX with COUNT at least 1 and MIN below MAX"
            )

    def holds(self, response_length: int) -> bool:
        return self.min_tokens < response_length <= self.max_tokens

    def __str__(self) -> str:
        return f"{self.count}:{self.min_tokens}-{self.max_tokens}"


PAPER_BUCKETS = (
    Bucket(600, 0, 2048),
    Bucket(600, 2048, 4096),
    Bucket(1000, 4096, 6144),
    Bucket(800, 6144, 8192),
)
"""The paper's 3,000 samples (section 4.1), its k read as 1,024 because its responses end at 8,192 tokens."""


def parse_buckets(text: str) -> tuple[Bucket, ...]:
    """Read ``"COUNT:MIN-MAX,..."``, lengths ascending.

    Raises:
        ConfigError: another form, or buckets that overlap or descend.
    """
    buckets = tuple(_parse_bucket(part.strip()) for part in text.split(","))
    for left, right in pairwise(buckets):
        if right.min_tokens < left.max_tokens:
            raise ConfigError(
                f"buckets: {right} follows {left}, expected lengths that ascend and do not overlap"
            )
    return buckets


def _parse_bucket(text: str) -> Bucket:
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9})-(\d{1,9})", text)
    if match is None:
        raise ConfigError(f"buckets: found {text!r}, expected COUNT:MIN-MAX such as 600:0-2048")
    return Bucket(*map(int, match.groups()))


class Selection:
    """The samples kept so far: the first of each length, until its bucket is full.

    Attributes:
        asked, solved: problems given to the model, and how many of them it solved.
        kept: samples of each bucket, in the order they came.
    """

    def __init__(self, buckets: Sequence[Bucket]) -> None:
        self.buckets = tuple(buckets)
        self.kept: list[list[Sample]] = [[] for _ in self.buckets]
        self.asked = self.solved = 0

    @property
    def full(self) -> bool:
        return all(len(kept) == bucket.count for bucket, kept in zip(self.buckets, self.kept, strict=True))

    def add(self, attempt: Sample | None) -> None:
        """Take the next attempt, None for one that failed."""
        self.asked += 1
        if attempt is None:
            return
        self.solved += 1
        for bucket, kept in zip(self.buckets, self.kept, strict=True):
            if bucket.holds(attempt.response_length) and len(kept) < bucket.count:
                kept.append(attempt)

    def curriculum(self, seed: int) -> list[tuple[int, Sample]]:
        """(bucket, sample): short responses first, shuffled within each bucket."""
        order = []
        for index, kept in enumerate(self.kept):
            shuffled = list(kept)
            Random(f"curriculum/{seed}/{index}").shuffle(shuffled)
            order += [(index, sample) for sample in shuffled]
        return order
