"""Which gates a tensor-parallel rank holds."""

from __future__ import annotations

import pytest
import torch
from rlkv_patches.sglang.mixed.gates import Shard


@pytest.mark.parametrize(("heads", "ranks"), [(6, 1), (6, 2), (6, 3), (8, 8), (2, 4), (1, 8)])
def test_ranks_hold_their_heads(heads: int, ranks: int) -> None:
    """Neighbours share the heads evenly; with more ranks than heads each head is there as often."""
    gates = torch.rand(heads)
    expected = gates.repeat_interleave(max(1, ranks // heads)).chunk(ranks)
    for rank in range(ranks):
        parameter = torch.empty(len(expected[rank]))
        Shard.of(heads, rank, ranks).load(parameter, gates)
        assert torch.equal(parameter, expected[rank])
