"""KVzip, importance by context reconstruction: Kim et al., 2025 (https://arxiv.org/abs/2505.23416).

The model is made to repeat its prompt; a token matters as much as the strongest attention that it gets then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from rlkv.attention.layout import SequenceLayout
from rlkv.attention.mixed import grouped_attention
from rlkv.attention.registry import layout_mask, resolve_layout

from .attention import strongest_attention
from .base import Held, SinkKeeper

OBSERVED = "rlkv_kvzip"


@dataclass(frozen=True)
class KVzip(SinkKeeper):
    """Drop the prompt's tokens in the order of their importance; what is generated stays.

    All heads keep equally many tokens (the paper's uniform allocation): a cache in dense tensors frees no
    memory by keeping fewer in some heads than in others.

    Once the budget holds less than what is generated and the sinks, none of the rest of the prompt is left,
    and the oldest generated tokens go first; the sinks go last.

    Attributes:
        request: token ids between the prompt and its repetition, an instruction to repeat it. None by
            default: a model that has learnt no instructions has no tokens for one.
    """

    request: tuple[int, ...] = ()

    def scores(self, held: Held) -> torch.Tensor:
        generated = held.slots.positions >= held.prompt_lengths[:, None, None]
        return held.always(generated, held.slots.marks["given"], self.sinks)

    def read_prompt(
        self, model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> list[torch.Tensor]:
        return importance(model, input_ids, attention_mask, self.request)


def importance(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    request: tuple[int, ...] = (),
) -> list[torch.Tensor]:
    """The strongest attention that each token of a prompt gets while the model repeats it.

    One causal pass over prompt, request and prompt again is the prefill and the repetition in one.

    Args:
        model: its attention is left as found.
        input_ids, attention_mask: [B, T], padded on the left.
        request: token ids in between.

    Returns:
        [B, H, T] for each layer, 0 on padding.
    """
    prompts = [row[mask.bool()] for row, mask in zip(input_ids, attention_mask, strict=True)]
    between = input_ids.new_tensor(request)
    rows = [torch.cat([prompt, between, prompt]) for prompt in prompts]
    longest = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows], device=ids.device)
    mask = (torch.arange(longest, device=ids.device) >= longest - lengths[:, None]).long()
    sizes = torch.tensor([len(prompt) for prompt in prompts], device=ids.device)
    with _observing(model, sizes, input_ids.shape[1]) as seen:
        position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
        model.base_model(input_ids=ids, attention_mask=mask, position_ids=position_ids, use_cache=False)
    return seen


@contextmanager
def _observing(model: PreTrainedModel, sizes: torch.Tensor, columns: int) -> Iterator[list[torch.Tensor]]:
    """A list that a pass fills with each layer's importance [B, H, columns], for prompts of these sizes."""
    seen: list[torch.Tensor] = []

    def forward(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: SequenceLayout,
        scaling: float,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        layout = resolve_layout(attention_mask, kwargs)
        visible = layout.full_mask()
        positions = layout.positions.expand(len(query), -1)
        repeats = positions >= (positions[:, -1:] + 1 - sizes[:, None])
        # A row is padding, prompt, request, prompt: cut out the first prompt, padded as it was given.
        peaks = strongest_attention(query, key, visible, repeats, scaling)
        starts = (positions < 0).sum(dim=-1, keepdim=True)
        places = starts + sizes[:, None] - columns + torch.arange(columns, device=query.device)
        inside = places >= starts
        taken = peaks.gather(2, places.clamp(min=0)[:, None, :].expand(-1, peaks.shape[1], -1))
        seen.append(taken * inside[:, None, :])
        return grouped_attention(query, key, value, visible, scaling).transpose(1, 2).contiguous(), None

    AttentionInterface.register(OBSERVED, forward)
    AttentionMaskInterface.register(OBSERVED, layout_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(OBSERVED)
    try:
        yield seen
    finally:
        model.set_attn_implementation(before)
