"""Keys and values of one kind of heads, for all layers."""

from __future__ import annotations

import torch


class HeadPool:
    """Keys and values of some heads of every layer.

    Attributes:
        heads: indices of a layer's heads that are stored here, int64, one tensor a layer.
        keys, values: ``[slots, len(heads[layer]), head_dim]``, one tensor a layer.
    """

    def __init__(
        self, heads: list[torch.Tensor], num_slots: int, head_dim: int, dtype: torch.dtype, device: str
    ) -> None:
        self.heads = [index.to(device) for index in heads]
        shapes = [(num_slots, len(index), head_dim) for index in heads]
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]

    def write(self, layer: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store the heads of this pool; ``slots`` is [T], ``key`` and ``value`` are [T, num_kv_heads, D]."""
        heads = self.heads[layer]
        if len(heads):
            self.keys[layer][slots] = key[:, heads].to(self.keys[layer].dtype)
            self.values[layer][slots] = value[:, heads].to(self.values[layer].dtype)

    def read(self, layer: int, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values ``[1, len(heads), T, D]`` of slots [T]."""
        keys, values = (buffer[layer][slots].transpose(0, 1)[None] for buffer in (self.keys, self.values))
        return keys, values

    def nbytes(self) -> tuple[int, int]:
        """Bytes of keys and of values."""
        return sum(t.nbytes for t in self.keys), sum(t.nbytes for t in self.values)
