"""KV heads on tensor-parallel ranks: equal numbers of full ones, and the same attention in any order."""

from __future__ import annotations

import random

import pytest
import torch
from rlkv_patches.sglang.head_ranks import head_order, heads_of_rank
from rlkv_patches.sglang.settings import Settings
from transformers import Qwen2Config, Qwen2ForCausalLM

from rlkv.planner import CacheShape, Demand, split_memory
from rlkv.window import Window


def random_streaming(layers: int, heads: int, seed: int) -> list[list[bool]]:
    rng = random.Random(seed)
    return [[rng.random() < 0.6 for _ in range(heads)] for _ in range(layers)]


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_ranks_hold_all_heads_once_and_full_ones_in_equal_numbers(ranks: int) -> None:
    for seed in range(20):
        streaming = random_streaming(7, 8, seed)
        order = head_order(streaming, ranks)
        assert all(sorted(row) == list(range(8)) for row in order)
        full = []
        for rank in range(ranks):
            heads = heads_of_rank(order, rank, ranks)
            assert {len(mine) for mine in heads} == {8 // ranks}
            full.append(
                sum(not row[head] for row, mine in zip(streaming, heads, strict=True) for head in mine)
            )
        assert max(full) - min(full) <= 1


def test_one_rank_keeps_the_models_order() -> None:
    assert head_order([[True, False], [False, True]], 1) == ((0, 1), (0, 1))


def test_ranks_agree_on_pools_that_fit_all_of_them() -> None:
    streaming = ((True, True, False, False), (True, True, True, False))
    settings = Settings("f", "m", 0.5, Window(4, 12), streaming, 100, ranks=2)
    shapes = settings.cache_shapes(head_dim=8, element_bytes=2)
    assert shapes == [CacheShape((1, 1), (1, 1), 8, 2), CacheShape((1, 0), (1, 2), 8, 2)]
    demand = Demand(Window(4, 12), 100, page_size=1, eviction_interval=16, prefill_tokens=40)
    sizes = split_memory(100_000, demand, *shapes)
    alone = [split_memory(100_000, demand, shape) for shape in shapes]
    assert sizes == min(alone, key=lambda size: size.full_tokens)
    assert max(sizes.nbytes(shape, 1) for shape in shapes) <= 100_000


def test_attention_is_the_same_in_any_order_of_heads() -> None:
    """A model of which every parameter is reordered gives the logits of the model as it was."""
    from rlkv_patches.sglang.head_weights import reorder

    config = Qwen2Config(  # its projections have biases
        vocab_size=50,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=4,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ids = torch.randint(50, (2, 9))
    expected = model(ids).logits
    order = head_order(random_streaming(3, 4, 1), 2)
    assert order != head_order(random_streaming(3, 4, 1), 1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: reorder(name, tensor, order, 4) for name, tensor in before.items()})
    assert any(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(model(ids).logits, expected)


def test_attention_of_an_unknown_kind_is_refused() -> None:
    from rlkv_patches.sglang.head_weights import reorder

    from rlkv.errors import UnsupportedError

    order = ((1, 0),)
    norm = torch.ones(3)
    assert reorder("model.layers.0.self_attn.q_norm.weight", norm, order, 3) is norm
    with pytest.raises(UnsupportedError, match=r"self_attn.qkv_proj.weight: found shape \[18, 6\]"):
        reorder("model.layers.0.self_attn.qkv_proj.weight", torch.ones(18, 6), order, 3)
    with pytest.raises(UnsupportedError, match="weight_scale"):
        reorder("model.layers.0.self_attn.q_proj.weight_scale", torch.ones(6, 1), order, 3)
