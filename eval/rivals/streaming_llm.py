"""StreamingLLM, attention sinks: Xiao et al., 2023 (https://arxiv.org/abs/2309.17453)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .base import Held, TokenDropper
from .checks import check_at_least


@dataclass(frozen=True)
class StreamingLLM(TokenDropper):
    """Keep the first tokens and the most recent ones, in all heads alike.

    Attributes:
        sinks: first tokens kept.
    """

    sinks: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("sinks", self.sinks, 0)

    @property
    def least(self) -> int:
        return self.sinks + 1

    def scores(self, held: Held) -> torch.Tensor:
        # All would stay; where they do not fit, the oldest behind the sinks go first.
        return held.always(held.slots.filled, held.slots.positions, self.sinks)
