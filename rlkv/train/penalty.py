"""The adaptive L1 penalty on the gates (arXiv 2510.08525, section 3.3).

The objective is GRPO's minus ``weight * mean(gates)``, and the weight follows the reward::

    weight = beta * (exp(r) - 1) if r > threshold else 0

with r the mean reward of the responses in scope. While the model answers well the gates are pushed down; as
soon as it fails the pressure ends and only the reward speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def l1_norm(gates: Sequence[torch.Tensor]) -> torch.Tensor:
    """‖gates‖₁ / (L·H): the mean absolute gate, a differentiable scalar."""
    return torch.cat([gate.abs() for gate in gates]).mean()


def group_weights(
    groups: Sequence[torch.Tensor],
    scope: RewardScope,
    beta: float,
    threshold: float,
    sum_over_ranks: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Weight of the L1 norm for a step whose groups are spread over ranks; the same on each of them.

    However the groups are split, the result is what one process with all of them would get: only sums and
    counts are exchanged.

    Args:
        groups: rewards of the responses to each prompt that this rank holds, [group_size] each; may be empty.
        scope: ``GROUP`` or ``BATCH``; a micro-batch is only known when it is formed.
        beta: strength of the penalty.
        threshold: mean reward above which it acts.
        sum_over_ranks: gives the sum of a tensor over all ranks.

    Returns:
        float64 scalar.
    """
    means = torch.stack([g.double().mean() for g in groups]) if groups else torch.zeros(0, dtype=torch.double)
    if scope is RewardScope.GROUP:
        return mean_over_ranks(penalty_weight(means, beta, threshold), sum_over_ranks)
    rewards = torch.cat([g.double() for g in groups]) if groups else means
    return penalty_weight(mean_over_ranks(rewards, sum_over_ranks), beta, threshold)


def mean_over_ranks(
    values: torch.Tensor, sum_over_ranks: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Mean of [N] values, of which each rank holds its own number, as a scalar."""
    total, count = sum_over_ranks(torch.stack([values.sum(), values.new_tensor(float(len(values)))]))
    return total / count


@torch.no_grad()
def add_penalty_gradient(gates: list[torch.nn.Parameter], weight: float) -> None:
    """Add the gradient of ``weight * l1_norm(gates)`` to the gradients that the gates already have."""
    num_gates = sum(gate.numel() for gate in gates)
    for gate in gates:
        gate.grad = gate.sign() * (weight / num_gates) + (0 if gate.grad is None else gate.grad)
