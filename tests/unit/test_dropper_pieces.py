"""Work on all pairs of tokens goes in pieces of bounded size, of which long rows take several."""

from __future__ import annotations

import pytest
import torch
from rlkv_eval.rivals import attention
from rlkv_eval.rivals.base import Held
from rlkv_eval.rivals.r_kv import RKV
from rlkv_eval.rivals.token_slots import TokenSlots
from torch import Tensor

HEAD_DIM = 8


@pytest.mark.parametrize("chunk", [4 * 30 * 2, 4 * 7 * 30, 4 * 30 * 30, 2 * 4 * 30 * 30])
def test_attention_in_pieces_is_the_whole(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(3, 4, 30, HEAD_DIM), torch.randn(3, 2, 30, HEAD_DIM)
    visible, asking = torch.ones(30, 30).tril().bool()[None, None], torch.rand(3, 30) > 0.5

    def figures() -> tuple[Tensor, Tensor]:
        return (
            attention.received_attention(query, key, visible, 0.3),
            attention.strongest_attention(query, key, visible, asking, 0.3),
        )

    whole = figures()
    monkeypatch.setattr(attention, "CHUNK", chunk)
    sizes = [weights.numel() for _, _, weights in attention._weights(query, key, visible, 0.3)]
    assert max(sizes) <= chunk and sum(sizes) == 3 * 4 * 30 * 30
    torch.testing.assert_close(figures(), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 2 * 7 * 20, 2 * 20 * 20])
def test_r_kv_redundancy_in_pieces_is_the_whole(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    torch.manual_seed(0)
    positions = torch.arange(20).expand(3, 2, -1).clone()
    positions[1, :, :5] = -1
    keys = torch.randn(3, 2, 20, HEAD_DIM)
    none = torch.zeros(0)
    held = Held(TokenSlots(keys, keys, {"positions": positions}), none, none, none, none, none, 1.0)
    whole = RKV().redundancy(held)
    monkeypatch.setattr(attention, "CHUNK", chunk)
    torch.testing.assert_close(RKV().redundancy(held), whole, rtol=1e-6, atol=1e-7)
