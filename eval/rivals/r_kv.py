"""R-KV, redundancy-aware compression for reasoning models: Cai et al., 2025 (https://arxiv.org/abs/2505.24133)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .base import Held, TokenDropper

CHUNK = 2**27
"""Most similarities that are in memory at once."""


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

    def scores(self, held: Held) -> torch.Tensor:
        attention = held.window_attention().mean(dim=3).amax(dim=2)
        attention = F.max_pool1d(attention, self.kernel, stride=1, padding=self.kernel // 2)
        scores = self.importance * attention - (1 - self.importance) * self.redundancy(held)
        return held.always(held.recent(self.window), scores)

    def redundancy(self, held: Held) -> torch.Tensor:
        """[B, H, C]: each token's mean similarity to the others, as a share of all tokens' (softmax)."""
        keys, filled = held.slots.keys, held.slots.filled
        batch, heads, slots, _ = keys.shape
        rows = max(1, CHUNK // (heads * slots * slots))
        means = [
            self._mean_similarity(keys[begin : begin + rows], filled[begin : begin + rows])
            for begin in range(0, batch, rows)
        ]
        return torch.cat(means).masked_fill(~filled, -torch.inf).softmax(dim=-1)

    def _mean_similarity(self, keys: torch.Tensor, filled: torch.Tensor) -> torch.Tensor:
        unit = F.normalize(keys, dim=-1) * filled[..., None]
        similarity = unit @ unit.transpose(-1, -2)
        similarity.diagonal(dim1=-2, dim2=-1).zero_()
        # Slots are in the order of positions: the last copy of a token is the newest.
        number = torch.arange(1, keys.shape[2] + 1, device=keys.device, dtype=torch.int32)
        newest = ((similarity > self.similar) * number).amax(dim=-1)
        # A token without a copy spares itself: its similarity to itself is zero already.
        spared = torch.where(newest > 0, newest, number) - 1
        similarity.scatter_(-1, spared[..., None].long(), 0.0)
        return similarity.sum(dim=-2) / filled.sum(dim=-1, keepdim=True)
