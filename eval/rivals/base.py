"""What a token-dropping method is: a score for each held token; those of the lowest scores go.

A method is one frozen dataclass in a file of its own; its fields are the hyper-parameters. All methods keep
the same number of tokens, ``rlkv_eval.rivals.budget`` says how many.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from .token_slots import TokenSlots

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALWAYS = 1e6
"""Added to the position of a token that must stay: above any score, and the newest stay longest."""


@dataclass(frozen=True)
class Held:
    """What one layer's scores are made from.

    Attributes:
        slots: the held tokens, [B, H, C].
        lengths: int64 [B], tokens of each row so far.
        prompt_lengths: int64 [B].
        counts: int64 [B], tokens that each head will keep.
        queries: [B, H, G, w, D], of the last w tokens that were passed; w = 0 for methods without a window.
        query_positions: int64 [B, w], negative on padding.
        scaling: factor of the logits.
    """

    slots: TokenSlots
    lengths: torch.Tensor
    prompt_lengths: torch.Tensor
    counts: torch.Tensor
    queries: torch.Tensor
    query_positions: torch.Tensor
    scaling: float

    def recent(self, tokens: int | torch.Tensor) -> torch.Tensor:
        """bool [B, H, C]: whether a token is one of the last ``tokens`` (a number, or int64 [B])."""
        first = self.lengths - tokens
        return self.slots.positions >= first[:, None, None]

    def always(self, stay: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores, those of tokens that must ``stay`` (bool [B, H, C]) lifted above all others."""
        return torch.where(stay, ALWAYS + self.slots.positions.to(scores.dtype), scores)

    def window_attention(self) -> torch.Tensor:
        """[B, H, G, w, C]: what each query of the window gives to each held token; 0 from padding."""
        logits = torch.einsum("bhgwd,bhcd->bhgwc", self.queries, self.slots.keys) * self.scaling
        queries, keys = (
            self.query_positions[:, None, None, :, None],
            self.slots.positions[:, :, None, None, :],
        )
        unseen = (keys < 0) | (keys > queries)
        return logits.masked_fill(unseen, -torch.inf).softmax(dim=-1).nan_to_num(0.0)


@dataclass(frozen=True)
class TokenDropper(ABC):
    """A token-dropping method.

    Attributes:
        window: last tokens whose queries it looks at.
        interval: decoding steps from one dropping to the next. The room that tokens take until then is freed
            ahead, so that the budget holds at every step.
        accumulates: whether it needs the attention that each token has received so far (mark ``received``).
    """

    window: int = 0
    interval: int = 1
    accumulates: ClassVar[bool] = False

    @abstractmethod
    def scores(self, held: Held) -> torch.Tensor:
        """[B, H, C]: the higher, the longer a token stays."""

    def read_prompt(
        self, model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> list[torch.Tensor] | None:
        """What the method finds out about a prompt before it is answered, its mark ``given``.

        A method that returns something has held the whole prompt while it did.

        Args:
            model: with the attention of ``use_hybrid_cache``, which is to be left as found.
            input_ids: [B, T], padded on the left.
            attention_mask: [B, T].

        Returns:
            [B, H, T] for each layer, or None.
        """
        return None
