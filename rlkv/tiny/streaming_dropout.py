"""Streaming dropout: in every training step a random set of KV heads sees the streaming window only.

A small model trained without it spreads its long-range work thinly over most of its heads, where large models
keep it in few. Like any dropout, this one teaches the model to get by without any one head; unlike training
with a fixed set, it plants no answer for the gates to find.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rlkv.attention.gates import attention_modules
from rlkv.window import Window

NAME = "rlkv_streaming_dropout"


class StreamingDropout(TrainerCallback):
    """Draws which heads stream before each step.

    Args:
        model: switched to the dropout's attention; ``close`` gives it back its own.
        window: of a head that streams.
        max_share: the share of heads that stream in a step is uniform in [0, ``max_share``].
        seed: of the draws.

    Attributes:
        modules: the attention modules in layer order; ``streaming`` of each, bool [num_kv_heads], holds the
            heads drawn last.
    """

    def __init__(self, model: PreTrainedModel, window: Window, max_share: float, seed: int) -> None:
        AttentionInterface.register(NAME, _forward)
        AttentionMaskInterface.register(NAME, _no_mask)
        self._model = model
        self.modules = attention_modules(model)
        self._max_share = max_share
        self._generator = torch.Generator().manual_seed(seed)
        num_kv_heads = model.config.num_key_value_heads
        for module in self.modules:
            module.streaming_window = cast(Any, window)
            streaming = torch.zeros(num_kv_heads, dtype=torch.bool, device=model.device)
            module.register_buffer("streaming", streaming, persistent=False)
        self._attention = model.config._attn_implementation
        model.set_attn_implementation(NAME)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        share = float(torch.rand((), generator=self._generator)) * self._max_share
        for module in self.modules:
            streaming = cast(torch.Tensor, module.streaming)
            streaming.copy_(torch.rand(streaming.shape, generator=self._generator) < share)

    def close(self) -> None:
        """Let every head attend fully again."""
        self._model.set_attn_implementation(self._attention)


def _forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention whose streaming heads see their window; for whole sequences padded on the right."""
    group = query.shape[1] // key.shape[1]
    position = torch.arange(query.shape[2], device=query.device)
    row, column = position[:, None], position[None, :]
    near = cast(Window, module.streaming_window).visible(row, column)
    streaming = cast(torch.Tensor, module.streaming).repeat_interleave(group)
    mask = torch.where(streaming[:, None, None], near, column <= row)
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[None], scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def _no_mask(**_: Any) -> None:
    """The attention function makes its own mask; labels leave out the padding."""
