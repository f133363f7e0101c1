"""AReaL's actor with logits that never exist whole.

AReaL takes the logits of all tokens of a micro-batch from the model, and keeps their log-softmax in float32
for the backward pass: 5 GB and 10 GB for 16,384 tokens over 152,000 words. Here the language head itself
gives what AReaL computes from them, a few numbers a token.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import torch
from areal.engine.fsdp_engine import FSDPPPOActor, FSDPTrainContext
from areal.utils.data import MicroBatchItem
from torch import nn

from rlkv.train.packed import FrozenHead, head_weight


class Column(IntEnum):
    """What the last dimension of ``LogprobHead``'s result holds."""

    LOGPROB = 0
    ENTROPY = 1
    SMALLEST_LOGIT = 2
    LARGEST_LOGIT = 3


class LogprobHead(nn.Module):
    """Stands in the place of a language head, inside the model, so that FSDP gathers its weight as ever.

    Args:
        weight: of that head, [V, C]; frozen.
        temperature: divides the logits.

    Attributes:
        targets: int64 [N], the token whose log-probability each position is asked for; set before a pass.
    """

    targets: torch.Tensor

    def __init__(self, weight: nn.Parameter, temperature: float) -> None:
        super().__init__()
        self.weight = weight
        self.temperature = temperature

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [1, N, C] to float32 [1, N, 4], a ``Column`` each."""
        columns = FrozenHead.apply(hidden[0], self.weight, self.targets, self.temperature)
        return torch.stack([column[None] for column in columns], dim=-1)  # FSDP warns of a view


class FrozenHeadActor(FSDPPPOActor):
    """AReaL's actor for a frozen language head; its losses and results stay as they are."""

    def _create_device_model(self) -> None:
        super()._create_device_model()
        head = LogprobHead(head_weight(self.model), self.config.temperature)
        self.model.set_output_embeddings(head)

    def _prepare_mb_inputs(self, mb_item: MicroBatchItem) -> tuple[dict[str, Any], FSDPTrainContext]:
        inputs, context = super()._prepare_mb_inputs(mb_item)
        self.model.get_output_embeddings().targets = torch.roll(inputs["input_ids"][0], -1)
        return inputs, context

    def _compute_logprobs_entropy(
        self, logits: torch.Tensor, inputs: dict[str, Any], ulysses_pad_size: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Two of float32 [N], from the head's columns [N, 4]."""
        return logits[:, Column.LOGPROB], logits[:, Column.ENTROPY]

    def _compute_logprobs(
        self, logits: torch.Tensor, inputs: dict[str, Any], ulysses_pad_size: int = 0
    ) -> torch.Tensor:
        return logits[:, Column.LOGPROB]

    def _get_vocab_min_max_logits(
        self, logits: torch.Tensor, ulysses_pad_size: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return logits[:, Column.SMALLEST_LOGIT], logits[:, Column.LARGEST_LOGIT]
