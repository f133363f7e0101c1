"""How many bytes of keys and values each row of a batch really holds while it is answered.

The tensors of a batch are as long as its longest row; what a row holds is counted by the slots that its own
tokens use, without padding and without room for tokens to come.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from transformers import StoppingCriteria
from transformers.cache_utils import Cache


class MeasuredCache(Protocol):
    """A cache that knows what each of its rows holds."""

    def bytes_in_use(self, lengths: torch.Tensor) -> torch.Tensor:
        """int64 [B]: bytes of keys and values, given the tokens that each row has passed (int64 [B])."""


def bytes_in_use(cache: Cache, lengths: torch.Tensor) -> torch.Tensor:
    """int64 [B]: bytes that each row holds in a measured cache, or in a full one of transformers."""
    if hasattr(cache, "bytes_in_use"):
        return cast(MeasuredCache, cache).bytes_in_use(lengths)
    layers = [cast(Any, layer) for layer in cache.layers]
    return lengths * sum(token_bytes(layer.keys, layer.values) for layer in layers)


def token_bytes(keys: torch.Tensor, values: torch.Tensor) -> int:
    """Bytes of one token in buffers [B, H, C, D]."""
    return sum(x.shape[1] * x.shape[3] * x.element_size() for x in (keys, values))


class KVMeter(StoppingCriteria):
    """Reads a cache after every step of ``generate()``; never stops it.

    Args:
        cache: that ``generate()`` is given.
        prompt_lengths: int64 [B], without padding.
        stops: token ids that end an answer; what a row holds beyond its end does not count.

    Attributes:
        peak: int64 [B], most bytes that a row has held.
    """

    def __init__(self, cache: Cache, prompt_lengths: torch.Tensor, stops: set[int]) -> None:
        self._cache = cache
        self._lengths = prompt_lengths
        self._stops = torch.tensor(sorted(stops), device=prompt_lengths.device)
        self._answering = torch.ones_like(prompt_lengths, dtype=torch.bool)
        self._total = torch.zeros_like(prompt_lengths)
        self._steps = torch.zeros_like(prompt_lengths)
        self.peak = torch.zeros_like(prompt_lengths)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> Any:
        held = bytes_in_use(self._cache, self._lengths) * self._answering
        self.peak = torch.maximum(self.peak, held)
        self._total += held
        self._steps += self._answering
        self._lengths = self._lengths + 1
        self._answering &= ~torch.isin(input_ids[:, -1], self._stops)
        return torch.zeros_like(self._answering)

    def mean(self) -> torch.Tensor:
        """float64 [B]: bytes that a row held on average over its steps."""
        return self._total.double() / self._steps
