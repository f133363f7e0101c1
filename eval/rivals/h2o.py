"""H2O, heavy-hitter oracle: Zhang et al., 2023 (https://arxiv.org/abs/2306.14048)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from .base import Held, TokenDropper
from .checks import check_share


@dataclass(frozen=True)
class H2O(TokenDropper):
    """Keep the recent tokens and those that have received most attention so far, summed over all queries.

    Attributes:
        recent_share: of the kept tokens, those kept for being recent; the paper splits the budget in halves.
    """

    recent_share: float = 0.5
    accumulates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("recent_share", self.recent_share)

    @property
    def least(self) -> int:
        return 2  # one that is recent, one that is not

    def scores(self, held: Held) -> torch.Tensor:
        recent = (held.counts * self.recent_share).long().clamp(min=1)
        return held.always(held.recent(recent), held.slots.marks["received"])
