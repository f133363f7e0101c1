"""Random Attention: keep the prompt, drop the rest at random (https://arxiv.org/abs/2609.03430)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .base import Held, TokenDropper
from .checks import check_at_least


@dataclass(frozen=True)
class RandomAttention(TokenDropper):
    """Keep the prompt and the newest tokens; of the others each head drops one at random.

    Where the budget holds less than the prompt, each head drops at random from prompt and answer alike.

    Attributes:
        recent: newest tokens that stay.
    """

    recent: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("recent", self.recent, 0)

    @property
    def least(self) -> int:
        return self.recent + 1

    def scores(self, held: Held) -> torch.Tensor:
        positions = held.slots.positions
        draws = torch.rand(positions.shape, device=positions.device)
        fits = held.counts >= held.prompt_lengths + self.recent
        prompt = positions < torch.where(fits, held.prompt_lengths, 0)[:, None, None]
        return held.always(prompt | held.recent(self.recent), draws)
