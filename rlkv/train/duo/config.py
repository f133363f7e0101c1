"""Settings of identification by distillation; the defaults are DuoAttention's (arXiv 2410.10819)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from rlkv.tiny.problems import DEFAULT_LEVEL, LEVELS, TINY_WINDOW
from rlkv.train.config import RunConfig, build, require, setting


class ContextKind(StrEnum):
    """What the model reads while its heads are judged."""

    PASSKEY = "passkey"
    """Natural text with passkeys hidden in it, which the answer repeats (the paper)."""
    TINY = "tiny"
    """The tiny reasoner's own task: it knows no other text. The answer is the whole right solution."""


@dataclass(frozen=True)
class DuoConfig(RunConfig):
    """One run of identification by distillation."""

    method: ClassVar[str] = "duo"

    steps: int = setting(2000, "Optimiser steps.")
    learning_rate: float = setting(0.02, "Highest learning rate of AdamW on the gates.")
    ramp_share: float = setting(
        0.2, "Share of the steps over which the rate rises from a tenth, and falls back to it at the end."
    )
    sparsity_weight: float = setting(0.05, "Weight of the mean gate beside the distillation loss.")
    contexts_per_step: int = setting(8, "Contexts of one step, over all devices.")
    contexts_per_pass: int = setting(1, "Contexts of one forward and backward pass; bounds the memory.")

    contexts: ContextKind = setting(ContextKind.PASSKEY, "What the model reads: passkey or tiny.")
    filler: str = setting("", "Text file in which passkeys are hidden; by default sentences of our own.")
    min_tokens: int = setting(1000, "Shortest passkey context.")
    max_tokens: int = setting(32000, "Longest passkey context.")
    passkeys: int = setting(10, "Passkeys hidden in a context.")
    passkey_words: int = setting(32, "Words of a passkey.")
    level: str = setting(DEFAULT_LEVEL, f"Level of the tiny task: {', '.join(LEVELS)}.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "ramp_share", 0 <= self.ramp_share <= 0.5, "within [0, 0.5]")
        require(self, "sparsity_weight", self.sparsity_weight >= 0, "at least 0")
        require(self, "contexts_per_step", self.contexts_per_step >= 1, "at least 1")
        total = self.contexts_per_step
        divides = 1 <= self.contexts_per_pass <= total and total % self.contexts_per_pass == 0
        require(self, "contexts_per_pass", divides, f"a divisor of contexts_per_step = {total}")
        require(self, "passkeys", self.passkeys >= 1, "at least 1")
        require(self, "passkey_words", self.passkey_words >= 1, "at least 1")
        require(self, "min_tokens", self.min_tokens >= 1, "at least 1")
        require(self, "max_tokens", self.max_tokens >= self.min_tokens, f"at least {self.min_tokens}")
        require(self, "level", self.level in LEVELS, f"one of {', '.join(LEVELS)}")


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "tiny": {
        "train_window": TINY_WINDOW,
        "serving_window": TINY_WINDOW,
        "steps": 80,
        "learning_rate": 0.03,
        "sparsity_weight": 0.15,
        "contexts_per_step": 4,
        "contexts_per_pass": 4,
        "contexts": ContextKind.TINY,
        "dtype": "float32",
    },
}
"""``tiny`` made the file ``heads-duo.json`` that ships with the tiny reasoner, in minutes on a CPU."""


def from_preset(name: str, **changes: Any) -> DuoConfig:
    """A preset with changes on top.

    Raises:
        ConfigError: an unknown preset or field.
    """
    return build(DuoConfig, PRESETS, name, changes)
