"""The objective of distillation and its learning rate: pure functions."""

from __future__ import annotations

import torch

LOWEST_RATE = 0.1
"""Share of the highest learning rate at which a run begins and ends."""


def distillation_loss(full: torch.Tensor, mixed: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """How far mixed attention moves the hidden states that produce the answer.

    Every context counts the same, whatever the length of its answer and whichever contexts share its pass: so
    the loss does not depend on how a step is split over passes and devices.

    Args:
        full, mixed: [B, T, C], last hidden states of the full model and with mixed attention.
        answer: bool [B, T], at least one True a row: positions whose next token belongs to the answer.

    Returns:
        Scalar: the squared difference, averaged over channels, then a row's positions, then rows.
    """
    squared = (full.float() - mixed.float()).square().mean(dim=-1)
    rows = (squared * answer).sum(dim=-1) / answer.sum(dim=-1)
    return rows.mean()


def learning_rate(step: int, steps: int, highest: float, ramp_share: float) -> float:
    """The rate of step ``step`` of ``steps``, counted from 0: up from a tenth, level, and down again.

    The first ramp begins at a tenth of ``highest``, and the last one ends there.
    """
    ramp = round(steps * ramp_share)
    distance = min(step, steps - 1 - step)
    if distance >= ramp:
        return highest
    return highest * (LOWEST_RATE + (1 - LOWEST_RATE) * distance / ramp)
