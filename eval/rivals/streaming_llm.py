"""StreamingLLM, attention sinks: Xiao et al., 2023 (https://arxiv.org/abs/2309.17453)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .base import Held, SinkKeeper


@dataclass(frozen=True)
class StreamingLLM(SinkKeeper):
    """Keep the first tokens and the most recent ones, in all heads alike."""

    def scores(self, held: Held) -> torch.Tensor:
        # All would stay; where they do not fit, the oldest behind the sinks go first.
        return held.always(held.slots.filled, held.slots.positions, self.sinks)
