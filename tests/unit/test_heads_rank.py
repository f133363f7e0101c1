"""Ranking, masks and overlap, against values worked out by hand."""

import json
import math
import subprocess
import sys
from itertools import combinations, pairwise

import pytest
import torch

from rlkv.errors import ConfigError
from rlkv.heads import Overlap, num_streaming, overlap, random_mask, ranking, streaming_mask, tied_at_cut

GATES = ((0.9, 0.1), (0.5, 0.1), (0.0, 0.5))


def test_ranking_is_lowest_gate_first_and_ties_by_layer_then_head() -> None:
    assert ranking(GATES) == [(2, 0), (0, 1), (1, 1), (1, 0), (2, 1), (0, 0)]
    assert ranking(torch.tensor(GATES)) == ranking(GATES)
    assert ranking(((1.0, 1.0), (1.0, 1.0))) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert ranking(((0.0, -0.0),)) == [(0, 0), (0, 1)]


@pytest.mark.parametrize(
    ("sparsity", "num_heads", "expected"),
    [
        (0.0, 6, 0),
        (1.0, 6, 6),
        (0.5, 6, 3),
        (0.5, 5, 2),  # 2.5: an exact half goes to the even neighbour
        (0.5, 7, 4),  # 3.5
        (0.25, 10, 2),  # 2.5
        (0.7, 40, 28),
        (0.29, 100, 29),  # 28.999999999999996 in floating point
        (0.0019, 256, 0),  # 0.4864
        (0.002, 256, 1),  # 0.512
    ],
)
def test_num_streaming(sparsity: float, num_heads: int, expected: int) -> None:
    assert num_streaming(sparsity, num_heads) == expected


@pytest.mark.parametrize("sparsity", [-0.01, 1.01, math.nan, math.inf])
def test_sparsity_outside_its_range_is_refused(sparsity: float) -> None:
    line = rf"^sparsity is {sparsity}, expected a number in \[0, 1\]$"
    with pytest.raises(ConfigError, match=line):
        num_streaming(sparsity, 6)
    with pytest.raises(ConfigError, match=line):
        streaming_mask(GATES, sparsity)
    with pytest.raises(ConfigError, match=line):
        random_mask(3, 2, sparsity, seed=0)


def test_a_nan_gate_has_no_rank() -> None:
    with pytest.raises(ConfigError, match=r"^gates\[1\]\[0\] is NaN"):
        streaming_mask(((0.0, 1.0), (math.nan, 1.0)), 0.5)


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [
        (0.0, [[False, False], [False, False], [False, False]]),
        (1 / 6, [[False, False], [False, False], [True, False]]),
        (2 / 6, [[False, True], [False, False], [True, False]]),  # of the tie at 0.1, the lower layer
        (0.5, [[False, True], [False, True], [True, False]]),
        (4 / 6, [[False, True], [True, True], [True, False]]),  # of the tie at 0.5, the lower layer
        (1.0, [[True, True], [True, True], [True, True]]),
    ],
)
def test_streaming_mask(sparsity: float, expected: list[list[bool]]) -> None:
    mask = streaming_mask(GATES, sparsity)
    assert mask.dtype == torch.bool
    assert mask.tolist() == expected


def test_masks_are_nested_as_sparsity_grows() -> None:
    gates = torch.rand(8, 6, generator=torch.Generator().manual_seed(0)).round(decimals=1)  # many ties
    masks = [streaming_mask(gates, step / 48) for step in range(49)]
    for step, (smaller, larger) in enumerate(pairwise(masks)):
        assert int(smaller.sum()) == step
        assert bool((larger | ~smaller).all())


def test_two_processes_give_the_same_masks() -> None:
    program = (
        "import json, torch; from rlkv.heads import random_mask, streaming_mask\n"
        "gates = [[(layer * 7 + head * 3) % 4 / 4 for head in range(6)] for layer in range(8)]\n"
        "print(json.dumps([streaming_mask(gates, 0.3).tolist(), random_mask(8, 6, 0.3, seed=5).tolist()]))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert [sum(map(sum, mask)) for mask in json.loads(outputs[0])] == [14, 14]  # 0.3 * 48 = 14.4


def test_random_mask_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = random_mask(32, 8, 0.5, seed=3)
    torch.manual_seed(2)
    assert torch.equal(first, random_mask(32, 8, 0.5, seed=3))
    assert not torch.equal(first, random_mask(32, 8, 0.5, seed=4))
    assert first.shape == (32, 8)
    assert int(first.sum()) == 128


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [(0.0, 0), (1 / 6, 0), (2 / 6, 2), (0.5, 0), (4 / 6, 2), (5 / 6, 0), (1.0, 0)],
)
def test_tied_at_cut(sparsity: float, expected: int) -> None:
    assert tied_at_cut(GATES, sparsity) == expected


def test_overlap_counts_full_heads_in_both() -> None:
    a = torch.tensor([[True, False], [False, False]])
    b = torch.tensor([[False, False], [True, True]])
    assert overlap(a, b) == Overlap(shared=1, full_a=3, full_b=2, num_heads=4)
    with pytest.raises(ConfigError, match=r"^mask shape is \[2, 2\], expected \[4, 1\] as in the other$"):
        overlap(a, b.view(4, 1))


@pytest.mark.parametrize(("full_a", "full_b"), [(3, 2), (2, 2), (6, 3), (0, 4), (5, 1)])
def test_chance_equals_the_mean_over_every_draw(full_a: int, full_b: int) -> None:
    draws = [len(set(range(full_a)) & set(drawn)) for drawn in combinations(range(6), full_b)]
    mean = sum(draws) / len(draws)
    variance = sum((draw - mean) ** 2 for draw in draws) / len(draws)
    result = Overlap(shared=0, full_a=full_a, full_b=full_b, num_heads=6)
    assert result.chance == pytest.approx(mean)
    assert result.chance_std == pytest.approx(math.sqrt(variance))


def test_chance_of_a_model_with_one_head() -> None:
    assert Overlap(shared=1, full_a=1, full_b=1, num_heads=1).chance_std == 0.0
