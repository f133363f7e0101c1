"""The budget of a comparison at equal KV memory: the one definition.

A method at budget b holds at most b times the bytes of keys and values that the full cache would hold for
the same sequence. What a token dropper may hold follows from that at every length. Which heads stream cannot
change while an answer grows, so methods by heads take the fewest streaming heads that meet the budget at a
reference length, the mean length at which full's answers end (``docs/eval-methods.md``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from rlkv.errors import ConfigError
from rlkv.window import Window

ROUNDING = 1e-9
"""0.6 * 5 is 2.9999999999999996 in binary, and means 3."""


@dataclass(frozen=True)
class Budget:
    """How many tokens a KV head may hold.

    Attributes:
        ratio: of the tokens of the sequence, in (0, 1].
        reference_length: sequences shorter than this may hold what one of this length may, so that nothing is
            dropped before the budget of the finished answer is used up; 0 grows the budget with the sequence.
    """

    ratio: float
    reference_length: int = 0

    def __post_init__(self) -> None:
        check_ratio(self.ratio)

    def most(self, length: int) -> int:
        """Tokens that a head may hold of a sequence of ``length``, at least 1."""
        return max(1, math.floor(self.ratio * max(length, self.reference_length) + ROUNDING))

    def most_each(self, lengths: torch.Tensor) -> torch.Tensor:
        """The same for int64 lengths of any shape."""
        tokens = (self.ratio * lengths.clamp(min=self.reference_length).double() + ROUNDING).floor()
        return tokens.long().clamp(min=1)


def check_ratio(ratio: float) -> None:
    """Refuse what is no budget.

    Raises:
        ConfigError: it is not in (0, 1].
    """
    if not 0 < ratio <= 1:
        raise ConfigError(f"budget is {ratio}, expected a number in (0, 1]")


def sparsity_of(ratio: float, num_heads: int, length: float, window: Window) -> float:
    """The smallest share of streaming heads at which a hybrid cache meets a budget.

    Args:
        ratio: budget.
        num_heads: KV heads of the model, all layers together.
        length: tokens of the sequence at which the budget is met.
        window: of the streaming heads.

    Raises:
        ConfigError: all heads streaming hold more than the budget.
    """
    check_ratio(ratio)
    saved = length - min(window.size, length)  # tokens that a streaming head spares
    over = (1 - ratio) * num_heads * length
    if over > num_heads * saved + ROUNDING:
        raise ConfigError(
            f"budget is {ratio}, expected at least {1 - saved / length:.3f}: at {length:.0f} tokens, that is "
            f"what heads with the window {window} hold when all of them stream"
        )
    return math.ceil(over / saved - ROUNDING) / num_heads if over > 0 else 0.0
