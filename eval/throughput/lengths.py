"""Output lengths of the MATH-500 replay: drawn so that they have the statistics of the published run."""

from __future__ import annotations

import math
import random
from statistics import NormalDist, fmean

REQUESTS = 500
PROMPT_TOKENS = 146
MEAN_TOKENS = 3108
CAP_TOKENS = 8192
CAPPED_SHARE = 0.178
SHORTEST_TOKENS = 273
"""The published run: 500 requests, about 146 prompt tokens, mean 3,108 new tokens, 17.8% at the cap of 8,192,
shortest 273."""


def replay_lengths(requests: int = REQUESTS, seed: int = 0) -> list[int]:
    """New tokens of each request, in an order drawn from ``seed``.

    Requests at the cap are there in their published share. The others are the quantiles of a log-normal
    distribution, the lowest of which is the shortest length, and whose spread gives the published mean.
    """
    capped = round(CAPPED_SHARE * requests)
    rest = requests - capped
    if rest == 0:
        return [CAP_TOKENS] * capped
    wanted = (MEAN_TOKENS * requests - CAP_TOKENS * capped) / rest
    low, high = 0.0, 3.0
    for _ in range(60):  # the mean grows with the spread
        spread = (low + high) / 2
        if fmean(_quantiles(rest, spread)) < wanted:
            low = spread
        else:
            high = spread
    lengths = [CAP_TOKENS] * capped + _quantiles(rest, high)
    random.Random(seed).shuffle(lengths)
    return lengths


def held_tokens(prompt_tokens: int, lengths: list[int]) -> int:
    """Tokens that a running request holds, averaged over the steps of all requests.

    A long request runs for longer, so that more of the running ones are long than of those that arrive.
    """
    return prompt_tokens + round(sum(n * n for n in lengths) / (2 * sum(lengths)))


def _quantiles(count: int, spread: float) -> list[int]:
    """Quantiles of a log-normal, the lowest at the shortest length, all below the cap."""
    scores = [NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)]
    return [
        min(CAP_TOKENS - 1, round(SHORTEST_TOKENS * math.exp(spread * (score - scores[0]))))
        for score in scores
    ]
