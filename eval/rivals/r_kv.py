"""R-KV, redundancy-aware compression for reasoning models: Cai et al., 2025 (https://arxiv.org/abs/2505.24133)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from .attention import pieces
from .base import Held, TokenDropper
from .checks import check_kernel, check_share


@dataclass(frozen=True)
class RKV(TokenDropper):
    """Keep the tokens that are important (attention of the last ones) and not redundant (similar keys).

    Attributes:
        importance: λ, weight of importance against redundancy.
        kernel: width of the max pooling of importance.
        similar: cosine similarity above which two keys count as copies, of which the newest is spared.
    """

    window: int = 8
    importance: float = 0.1
    kernel: int = 7
    similar: float = 0.5
    least_window: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("importance", self.importance)
        check_kernel(self.kernel)
        check_share("similar", self.similar)

    def scores(self, held: Held) -> torch.Tensor:
        attention = held.window_attention().mean(dim=3).amax(dim=2)
        attention = F.max_pool1d(attention, self.kernel, stride=1, padding=self.kernel // 2)
        scores = self.importance * attention - (1 - self.importance) * self.redundancy(held)
        return held.always(held.recent(self.window), scores)

    def redundancy(self, held: Held) -> torch.Tensor:
        """float32 [B, H, C]: each token's mean similarity to the others, as a share of all's (softmax)."""
        filled = held.slots.filled
        unit = F.normalize(held.slots.keys, dim=-1) * filled[..., None]
        batch, heads, slots, _ = unit.shape
        total = torch.zeros(batch, heads, slots, device=unit.device)
        for rows, tokens in pieces(batch, slots, heads * slots):
            total[rows] += self._similarity(unit[rows], tokens).sum(dim=-2, dtype=torch.float32)
        means = total / filled.sum(dim=-1, keepdim=True)
        return means.masked_fill(~filled, -torch.inf).softmax(dim=-1)

    def _similarity(self, unit: torch.Tensor, tokens: slice) -> torch.Tensor:
        """Of some ``tokens`` to all: [b, H, c, C] from unit keys [b, H, C, D], 0 where a copy is spared."""
        similarity = unit[:, :, tokens] @ unit.transpose(-1, -2)
        similarity.diagonal(offset=tokens.start, dim1=-2, dim2=-1).zero_()
        # Slots are in the order of positions: the last copy of a token is the newest.
        number = torch.arange(1, unit.shape[2] + 1, device=unit.device, dtype=torch.int32)
        newest = ((similarity > self.similar) * number).amax(dim=-1)
        # A token without a copy spares itself: its similarity to itself is zero already.
        spared = torch.where(newest > 0, newest, number[tokens]) - 1
        return similarity.scatter_(-1, spared[..., None].long(), 0.0)
