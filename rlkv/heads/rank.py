"""Which heads stream at a sparsity, and how far two choices agree.

Pure functions of the gates. Ties are broken by (layer, head), so every process that reads the same
gates gets the same mask. torch loads only where a mask is made, so that reading and ranking a heads
file, and refusing one, take no seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, Union

from rlkv.errors import ConfigError

if TYPE_CHECKING:
    import torch

GatesLike: TypeAlias = Union[Sequence[Sequence[float]], "torch.Tensor"]
"""Gates ``[num_layers, num_kv_heads]``, as a heads file or as a model holds them."""


def ranking(gates: GatesLike) -> list[tuple[int, int]]:
    """All heads as (layer, head), the lowest gate first, equal gates by (layer, head).

    Raises:
        ConfigError: a gate is NaN, which has no rank.
    """
    return [(layer, head) for _, layer, head in _ranked(gates)]


def num_streaming(sparsity: float, num_heads: int) -> int:
    """How many of ``num_heads`` heads stream: ``round(sparsity * num_heads)``.

    Python's ``round`` takes exact halves to the even neighbour.

    Raises:
        ConfigError: a sparsity outside [0, 1], or NaN.
    """
    if not 0 <= sparsity <= 1:
        raise ConfigError(f"sparsity is {sparsity}, expected a number in [0, 1]")
    return round(sparsity * num_heads)


def streaming_mask(gates: GatesLike, sparsity: float) -> torch.Tensor:
    """Bool ``[num_layers, num_kv_heads]``, True where the head streams.

    Raises:
        ConfigError: a sparsity outside [0, 1], or a NaN among the sparsity and the gates.
    """
    import torch

    order = ranking(gates)
    mask = torch.zeros(len(gates), len(gates[0]), dtype=torch.bool)
    for layer, head in order[: num_streaming(sparsity, len(order))]:
        mask[layer, head] = True
    return mask


def random_mask(num_layers: int, num_kv_heads: int, sparsity: float, seed: int) -> torch.Tensor:
    """A streaming mask ``[num_layers, num_kv_heads]`` drawn from ``seed`` alone, for a random baseline.

    Raises:
        ConfigError: a sparsity outside [0, 1], or NaN.
    """
    import torch

    num_heads = num_layers * num_kv_heads
    order = torch.randperm(num_heads, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(num_heads, dtype=torch.bool)
    mask[order[: num_streaming(sparsity, num_heads)]] = True
    return mask.view(num_layers, num_kv_heads)


def tied_at_cut(gates: GatesLike, sparsity: float) -> int:
    """Heads whose gate equals that of both the last streaming and the first full head, 0 if none does.

    Among these the order (layer, head) decides who streams, not the gate.
    """
    values = [gate for gate, _, _ in _ranked(gates)]
    cut = num_streaming(sparsity, len(values))
    if cut in (0, len(values)) or values[cut - 1] != values[cut]:
        return 0
    return values.count(values[cut])


@dataclass(frozen=True)
class Overlap:
    """How many full heads two masks of one model share.

    Attributes:
        shared: heads that are full in both.
        full_a: full heads of the first mask.
        full_b: full heads of the second mask.
        num_heads: all heads of the model.
    """

    shared: int
    full_a: int
    full_b: int
    num_heads: int

    @property
    def chance(self) -> float:
        """Shared heads to expect if each mask had drawn its full heads blindly (hypergeometric mean)."""
        return self.full_a * self.full_b / self.num_heads

    @property
    def chance_std(self) -> float:
        """Standard deviation of the same draw, in heads."""
        if self.num_heads == 1:
            return 0.0
        not_a, not_b = self.num_heads - self.full_a, self.num_heads - self.full_b
        return math.sqrt(self.chance * not_a * not_b / (self.num_heads * (self.num_heads - 1)))


def overlap(mask_a: torch.Tensor, mask_b: torch.Tensor) -> Overlap:
    """Compare two streaming masks ``[num_layers, num_kv_heads]`` by the heads they leave full.

    Raises:
        ConfigError: masks of different shapes.
    """
    if mask_a.shape != mask_b.shape:
        raise ConfigError(
            f"mask shape is {list(mask_a.shape)}, expected {list(mask_b.shape)} as in the other"
        )
    full_a, full_b = ~mask_a, ~mask_b
    return Overlap(
        shared=int((full_a & full_b).sum()),
        full_a=int(full_a.sum()),
        full_b=int(full_b.sum()),
        num_heads=mask_a.numel(),
    )


def _ranked(gates: GatesLike) -> list[tuple[float, int, int]]:
    """(gate, layer, head) of all heads, sorted."""
    heads = [(float(gate), layer, head) for layer, row in enumerate(gates) for head, gate in enumerate(row)]
    for gate, layer, head in heads:
        if math.isnan(gate):
            raise ConfigError(f"gates[{layer}][{head}] is NaN, expected a number in [0, 1]")
    return sorted(heads)
