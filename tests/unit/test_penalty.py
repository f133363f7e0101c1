"""The adaptive penalty against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rlkv.errors import ConfigError
from rlkv.train.config import RewardScope
from rlkv.train.penalty import (
    add_penalty_gradient,
    group_weights,
    l1_norm,
    penalty_weight,
    scoped_mean_rewards,
)


def test_weight_is_zero_up_to_the_threshold_and_follows_the_exponential_above() -> None:
    rewards = torch.tensor([0.0, 0.5, 0.5001, 1.0], dtype=torch.float64)
    weight = penalty_weight(rewards, beta=1e-3, threshold=0.5)
    assert weight[:2].tolist() == [0.0, 0.0]
    assert weight[2].item() == pytest.approx(1e-3 * (math.exp(0.5001) - 1), rel=1e-12)
    assert weight[3].item() == pytest.approx(1e-3 * (math.e - 1), rel=1e-12)


def test_group_scope_takes_the_mean_of_each_prompts_responses() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0])
    assert scoped_mean_rewards(rewards, RewardScope.GROUP, 4).tolist() == [0.25] * 4 + [0.75] * 4


def test_batch_scope_takes_the_mean_of_all_responses() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0])
    assert scoped_mean_rewards(rewards, RewardScope.BATCH, 4).tolist() == [0.5] * 8


@pytest.mark.parametrize(("scope", "size"), [(RewardScope.MICRO_BATCH, 4), (RewardScope.GROUP, 3)])
def test_a_scope_that_cannot_be_formed_is_refused(scope: RewardScope, size: int) -> None:
    with pytest.raises(ConfigError, match=f"8 rewards cannot be scoped by {scope} of {size}"):
        scoped_mean_rewards(torch.zeros(8), scope, size)


def test_l1_norm_is_the_mean_gate_with_an_equal_gradient_for_each() -> None:
    gates = [torch.nn.Parameter(torch.tensor(row)) for row in ([1.0, 0.5], [0.25, 0.25])]
    norm = l1_norm(gates)
    norm.backward()
    assert norm.item() == 0.5
    assert [gate.grad.tolist() for gate in gates] == [[0.25, 0.25]] * 2


def weights_on_ranks(
    split: list[list[torch.Tensor]], scope: RewardScope, beta: float, threshold: float
) -> list[float]:
    """What each rank gets when the groups are split so; sums over ranks are those of all ranks' parts."""
    parts: list[torch.Tensor] = []

    def record(values: torch.Tensor) -> torch.Tensor:
        parts.append(values)
        return values

    for own in split:
        group_weights(own, scope, beta, threshold, record)
    total = torch.stack(parts).sum(dim=0)
    return [float(group_weights(own, scope, beta, threshold, lambda _: total)) for own in split]


@pytest.mark.parametrize("scope", [RewardScope.GROUP, RewardScope.BATCH])
@pytest.mark.parametrize("cuts", [(5,), (2, 5), (0, 1, 4, 5), (1, 1, 5)])
def test_weight_of_a_step_does_not_depend_on_its_split_over_ranks(
    scope: RewardScope, cuts: tuple[int, ...]
) -> None:
    groups = [torch.tensor(row) for row in ([1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, 0.0])]
    means = [1.0, 0.5, 0.0, 1.0, 0.5]
    if scope is RewardScope.GROUP:
        expected = sum(2e-3 * math.expm1(m) if m > 0.45 else 0.0 for m in means) / 5
    else:
        expected = 2e-3 * math.expm1(0.6)
    split = [groups[begin:end] for begin, end in zip((0, *cuts), cuts, strict=False)]
    for weight in weights_on_ranks(split, scope, 2e-3, 0.45):
        assert weight == pytest.approx(expected, rel=1e-14)


def test_added_gradient_is_that_of_the_weighted_norm() -> None:
    rows = ([1.0, 0.5, 0.0], [0.25, 0.75, 1.0])
    by_autograd = [torch.nn.Parameter(torch.tensor(row)) for row in rows]
    (0.3 * l1_norm(by_autograd)).backward()
    by_hand = [torch.nn.Parameter(torch.tensor(row)) for row in rows]
    by_hand[0].grad = torch.tensor([0.1, -0.2, 0.4])
    add_penalty_gradient(by_hand, 0.3)
    assert torch.allclose(by_hand[0].grad, by_autograd[0].grad + torch.tensor([0.1, -0.2, 0.4]))
    assert torch.equal(by_hand[1].grad, by_autograd[1].grad)
