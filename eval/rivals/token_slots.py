"""The tokens that one layer's KV heads still hold, each head its own ones, and what is known of them."""

from __future__ import annotations

import torch

from rlkv.kv_meter import token_bytes

EMPTY = -1


class TokenSlots:
    """Keys and values of the kept tokens, in the order of their positions, empty slots first.

    Attributes:
        keys, values: [B, H, C, D].
        marks: what is known of the token in each slot, [B, H, C] each; ``positions`` is among them, int64, -1
            where the slot is empty.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, marks: dict[str, torch.Tensor]) -> None:
        self.keys = keys
        self.values = values
        self.marks = marks

    @property
    def positions(self) -> torch.Tensor:
        """int64 [B, H, C]: each token's position in its own sequence, -1 where the slot is empty."""
        return self.marks["positions"]

    @property
    def filled(self) -> torch.Tensor:
        """bool [B, H, C]: whether a slot holds a token."""
        return self.positions != EMPTY

    def append(self, key: torch.Tensor, value: torch.Tensor, positions: torch.Tensor) -> None:
        """Add one token to every head.

        Args:
            key, value: [B, H, 1, D].
            positions: int64 [B, 1].
        """
        self.keys = torch.cat([self.keys, key], dim=2)
        self.values = torch.cat([self.values, value], dim=2)
        for name, mark in self.marks.items():
            first = positions[:, None, :] if name == "positions" else positions.new_zeros(1, 1, 1)
            new = first.to(mark.dtype).expand(*mark.shape[:2], 1)
            self.marks[name] = torch.cat([mark, new], dim=2)

    def keep(self, scores: torch.Tensor, counts: torch.Tensor, most: int) -> None:
        """Drop all but the tokens of the highest scores; what they held is freed.

        Args:
            scores: [B, H, C].
            counts: int64 [B], how many tokens each head of a row keeps; all where it has no more.
            most: the highest of the counts, or more.
        """
        best, slots = scores.masked_fill(~self.filled, -torch.inf).topk(min(most, scores.shape[-1]), dim=-1)
        rank = torch.arange(slots.shape[-1], device=slots.device)
        kept = (rank < counts[:, None, None]) & (best != -torch.inf)
        slots = slots.masked_fill(~kept, EMPTY).sort(dim=-1).values
        empty, slots = slots == EMPTY, slots.clamp(min=0)
        self.keys, self.values = _pick(self.keys, slots), _pick(self.values, slots)
        self.marks = {name: mark.gather(2, slots) for name, mark in self.marks.items()}
        self.marks["positions"].masked_fill_(empty, EMPTY)

    def bytes_held(self) -> torch.Tensor:
        """int64 [B]: bytes of the tokens held, empty slots left out."""
        a_slot = token_bytes(self.keys[:, :1], self.values[:, :1])
        return self.filled.sum(dim=(1, 2)) * a_slot

    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return self.keys.nbytes + self.values.nbytes


def _pick(x: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """The vectors of some slots: [B, H, C, D] by int64 [B, H, c] gives [B, H, c, D].

    Whole vectors are copied; ``gather`` takes them apart and is several times slower on a CPU.
    """
    batch, heads, width, dim = x.shape
    first = torch.arange(0, batch * heads * width, width, device=x.device).view(batch, heads, 1)
    rows = (first + slots).flatten()
    return x.reshape(-1, dim).index_select(0, rows).view(batch, heads, -1, dim)
