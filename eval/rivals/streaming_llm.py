"""StreamingLLM, attention sinks: Xiao et al., 2023 (https://arxiv.org/abs/2309.17453)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .base import Held, TokenDropper


@dataclass(frozen=True)
class StreamingLLM(TokenDropper):
    """Keep the first tokens and the most recent ones, in all heads alike.

    Attributes:
        sinks: first tokens kept.
    """

    sinks: int = 4

    def scores(self, held: Held) -> torch.Tensor:
        positions = held.slots.positions
        return held.always(positions < self.sinks, positions.to(held.slots.keys.dtype))
