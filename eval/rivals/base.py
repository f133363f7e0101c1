"""What a token-dropping method is: a score for each held token; those of the lowest scores go.

A method is one frozen dataclass in a file of its own; its fields are the hyper-parameters. All methods keep
the same number of tokens, ``rlkv_eval.rivals.budget`` says how many.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from .checks import check_at_least
from .token_slots import TokenSlots

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALWAYS = 2.0**22
"""Added to the position of a token that must stay, twice for a sink: above any score. Positions below it stay
whole numbers in float32, so no two tokens tie; in bfloat16 a thousand neighbours would be one number."""


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

    def always(self, stay: torch.Tensor, scores: torch.Tensor, sinks: int = 0) -> torch.Tensor:
        """float32 [B, H, C]: the scores, those of tokens that must stay lifted above all others.

        Where more must stay than the budget holds, the oldest of them go first, and the sinks last.

        Args:
            stay: bool [B, H, C].
            scores: [B, H, C].
            sinks: first tokens, which must stay as well.
        """
        positions = self.slots.positions
        lifted = torch.where(stay, ALWAYS + positions.float(), scores.float())
        return torch.where(positions < sinks, 2 * ALWAYS + positions.float(), lifted)

    def window_attention(self) -> torch.Tensor:
        """float32 [B, H, G, w, C]: what each query of the window gives to each held token; 0 from padding."""
        logits = torch.einsum("bhgwd,bhcd->bhgwc", self.queries, self.slots.keys) * self.scaling
        queries, keys = (
            self.query_positions[:, None, None, :, None],
            self.slots.positions[:, :, None, None, :],
        )
        unseen = (keys < 0) | (keys > queries)
        return logits.masked_fill(unseen, -torch.inf).softmax(dim=-1, dtype=torch.float32).nan_to_num(0.0)


@dataclass(frozen=True)
class TokenDropper(ABC):
    """A token-dropping method.

    Attributes:
        window: last tokens whose queries it looks at.
        interval: decoding steps from one dropping to the next; R-KV's authors drop every 128 tokens. The room
            that tokens take until then is freed ahead, so that the budget holds at every step. That costs up
            to ``interval - 1`` of the tokens that the budget allows. While the budget is so small that fewer
            than these would be kept, or fewer than ``least``, tokens are dropped at every step.
        least_window: smallest ``window`` that it can do with.
        accumulates: whether it needs the attention that each token has received so far (mark ``received``).
    """

    window: int = 0
    interval: int = 1
    least_window: ClassVar[int] = 0
    accumulates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_at_least("window", self.window, self.least_window)
        check_at_least("interval", self.interval, 1)

    @property
    def least(self) -> int:
        """Tokens that must be kept for the method to choose at all: those that always stay, and one."""
        return self.window + 1

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


@dataclass(frozen=True)
class SinkKeeper(TokenDropper):
    """A method whose first tokens stay.

    Attributes:
        sinks: how many.
    """

    sinks: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("sinks", self.sinks, 0)

    @property
    def least(self) -> int:
        return self.sinks + 1
