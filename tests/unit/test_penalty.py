"""The adaptive penalty against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rlkv.errors import ConfigError
from rlkv.train.config import RewardScope
from rlkv.train.penalty import l1_norm, penalty_weight, scoped_mean_rewards


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
