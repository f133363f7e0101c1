"""The adaptive L1 penalty on the gates (arXiv 2510.08525, section 3.3).

The objective is GRPO's minus ``weight * mean(gates)``, and the weight follows the reward::

    weight = beta * (exp(r) - 1) if r > threshold else 0

with r the mean reward of the responses in scope. While the model answers well the gates are pushed down; as
soon as it fails the pressure ends and only the reward speaks.
"""

from __future__ import annotations

import torch

from rlkv.errors import ConfigError
from rlkv.train.config import RewardScope


def penalty_weight(mean_reward: torch.Tensor, beta: float, threshold: float) -> torch.Tensor:
    """Weight of the L1 norm for each mean reward, same shape as ``mean_reward``."""
    return torch.where(mean_reward > threshold, beta * torch.expm1(mean_reward), 0.0)


def scoped_mean_rewards(rewards: torch.Tensor, scope: RewardScope, group_size: int) -> torch.Tensor:
    """The mean reward that counts for each response.

    Args:
        rewards: [N], all responses of a step, the ``group_size`` responses of a prompt side by side.
        scope: ``GROUP`` or ``BATCH``; a micro-batch is only known when it is formed.

    Returns:
        [N].

    Raises:
        ConfigError: for ``MICRO_BATCH``, or when the groups do not fill the step.
    """
    if scope is RewardScope.BATCH:
        return rewards.mean().expand_as(rewards)
    if scope is not RewardScope.GROUP or len(rewards) % group_size:
        raise ConfigError(f"penalty: {len(rewards)} rewards cannot be scoped by {scope} of {group_size}")
    return rewards.view(-1, group_size).mean(dim=1).repeat_interleave(group_size)


def l1_norm(gates: list[torch.nn.Parameter]) -> torch.Tensor:
    """‖gates‖₁ / (L·H): the mean absolute gate, a differentiable scalar."""
    return torch.cat([gate.abs() for gate in gates]).mean()
