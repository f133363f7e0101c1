"""Settings of gate training: frozen dataclasses, whose defaults are the paper's and the CLI's."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

from rlkv.errors import ConfigError
from rlkv.tiny.problems import TINY_WINDOW
from rlkv.window import PAPER_SERVE_WINDOW, PAPER_TRAIN_WINDOW, Window

C = TypeVar("C", bound="RunConfig")

CHECKPOINTING = "Recompute activations in the backward pass: less memory, a third more compute."


def setting(default: Any, text: str) -> Any:
    """A field with its default and the line that explains it, on the command line too."""
    return field(default=default, metadata={"help": text})


class Advantage(StrEnum):
    """How rewards become advantages."""

    GROUP = "group"
    """Minus the group's mean, over its standard deviation (GRPO, the paper)."""
    BATCH = "batch"
    """Minus the batch's mean, over its standard deviation, no group baseline (the authors' code)."""


class RewardScope(StrEnum):
    """Over which responses r̄ is taken."""

    GROUP = "group"
    """The responses to one prompt (the paper); the weights of all groups are averaged."""
    MICRO_BATCH = "micro-batch"
    """The responses of one forward pass (the authors' code)."""
    BATCH = "batch"
    """All responses of an optimiser step, over all processes."""


@dataclass(frozen=True)
class RunConfig:
    """What the ways to train gates have in common.

    Every field but the paths and the logging counts towards the run's identity: a run folder is only ever
    continued with the settings it was started with.
    """

    method: ClassVar[str]
    uncounted: ClassVar[tuple[str, ...]] = ("out", "save_every", "report_to")
    """Settings that change where and how often something is written, but no gate."""

    model: str = setting("tiny-reasoner", "Folder, hub id, or name of a shipped model.")
    out: str = setting("runs/train", "Folder of the run: checkpoints, logs, heads.json.")

    train_window: Window = setting(PAPER_TRAIN_WINDOW, "Window of the streaming part of mixed attention.")
    serving_window: Window = setting(PAPER_SERVE_WINDOW, "Window recommended to servers.")
    init_gate: float = setting(1.0, "First value of every gate.")

    steps: int = setting(185, "Optimiser steps (the paper: 2 epochs of 3,000 problems).")
    learning_rate: float = setting(0.01, "Learning rate of AdamW on the gates.")
    weight_decay: float = setting(0.0, "AdamW's weight decay on the gates.")

    recommended_sparsity: float = setting(0.5, "Sparsity that heads.json recommends to servers.")
    dtype: str = setting("auto", "Precision of the frozen weights: auto (as stored), float32 or bfloat16.")
    gradient_checkpointing: bool = setting(False, CHECKPOINTING)
    seed: int = setting(0, "Seed of data order and sampling.")
    save_every: int = setting(10, "Steps between checkpoints.")
    report_to: tuple[str, ...] = setting(
        ("tensorboard",), "Where metrics go, as in transformers: tensorboard, wandb, ..."
    )

    def __post_init__(self) -> None:
        require(self, "steps", self.steps >= 1, "at least 1")
        require(self, "init_gate", 0 <= self.init_gate <= 1, "within [0, 1]")
        require(self, "learning_rate", self.learning_rate > 0, "above 0")
        require(self, "recommended_sparsity", 0 <= self.recommended_sparsity <= 1, "within [0, 1]")
        require(self, "save_every", self.save_every >= 1, "at least 1")
        require(self, "seed", 0 <= self.seed < 2**32, "at least 0 and below 2^32")
        require(self, "dtype", self.dtype in ("auto", "float32", "bfloat16"), "auto, float32 or bfloat16")

    def identity(self) -> dict[str, Any]:
        """The method and every setting that changes the gates, as plain JSON values."""
        values = {name: value for name, value in asdict(self).items() if name not in self.uncounted}
        plain = {name: str(v) if isinstance(v, StrEnum) else v for name, v in values.items()}
        return {"method": self.method, **plain}


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """One run of reinforcement learning on the gates."""

    method: ClassVar[str] = "grpo"
    uncounted: ClassVar[tuple[str, ...]] = (*RunConfig.uncounted, "steps")

    data: str = setting("", "Folder written by ``rlkv data``.")
    prompts_per_step: int = setting(32, "Problems of one step.")
    group_size: int = setting(4, "Responses to each problem.")
    micro_batch_size: int = setting(32, "Responses of one forward and backward pass; bounds the memory.")
    max_grad_norm: float = setting(1.0, "Gradient clipping.")
    clip: float = setting(0.2, "Clip range of the probability ratio.")

    beta: float = setting(1e-3, "Strength of the penalty.")
    reward_threshold: float = setting(0.5, "Mean reward above which the penalty acts.")
    reward_scope: RewardScope = setting(RewardScope.GROUP, "Responses over which that mean is taken.")
    advantage: Advantage = setting(Advantage.GROUP, "Normalisation of the advantages.")
    reward_scale: float = setting(1.0, "Factor of the reward in the advantages.")
    reward_bias: float = setting(0.0, "Added to the reward before it is scaled.")

    temperature: float = setting(1.0, "Sampling temperature of the responses.")
    top_p: float = setting(1.0, "Nucleus sampling.")
    top_k: int = setting(0, "Top-k sampling; 0 is off.")
    max_new_tokens: int = setting(8192, "Longest response; a longer one is cut and earns nothing.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "group_size", self.group_size >= 2, "at least 2: a group needs something to compare")
        require(self, "prompts_per_step", self.prompts_per_step >= 1, "at least 1")
        require(self, "beta", self.beta >= 0, "at least 0")
        require(
            self, "temperature", self.temperature > 0, "above 0: greedy responses of a group are all alike"
        )
        require(self, "max_new_tokens", self.max_new_tokens >= 1, "at least 1")
        total = self.responses_per_step
        require(
            self,
            "micro_batch_size",
            1 <= self.micro_batch_size <= total and total % self.micro_batch_size == 0,
            f"a divisor of prompts_per_step * group_size = {total}",
        )

    @property
    def responses_per_step(self) -> int:
        return self.prompts_per_step * self.group_size


def require(config: RunConfig, name: str, holds: bool, expected: str) -> None:
    """Refuse a setting that is out of range.

    Raises:
        ConfigError: ``holds`` is false; one line that names the setting, its value and what was expected.
    """
    if not holds:
        raise ConfigError(f"training: {name} is {getattr(config, name)!r}, expected {expected}")


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "code": {
        "weight_decay": 0.017,
        "clip": 0.4,
        "reward_scope": RewardScope.MICRO_BATCH,
        "advantage": Advantage.BATCH,
        "reward_scale": 10.0,
        "reward_bias": -0.5,
    },
    "tiny": {
        "train_window": TINY_WINDOW,
        "serving_window": TINY_WINDOW,
        "init_gate": 0.8,
        "steps": 120,
        "prompts_per_step": 16,
        "group_size": 8,
        "micro_batch_size": 128,
        "learning_rate": 0.02,
        "beta": 0.01,
        "max_new_tokens": 256,
        "dtype": "float32",
    },
}
PRESETS["demo"] = PRESETS["tiny"] | {
    "init_gate": 0.7,
    "steps": 32,
    "prompts_per_step": 8,
    "group_size": 4,
    "micro_batch_size": 32,
    "learning_rate": 0.03,
    "max_new_tokens": 112,
}
"""``paper``, and ``code`` for the authors' code where it differs (its decoupled loss and off-policyness of 2
only mean something when rollouts run ahead of training, which in this process they never do); ``tiny`` made
the gates that ship with the tiny reasoner; ``demo`` is the same in minutes on a CPU, on short problems."""


def from_preset(name: str, **changes: Any) -> TrainConfig:
    """A preset of reinforcement learning with changes on top.

    Raises:
        ConfigError: an unknown preset or field.
    """
    return build(TrainConfig, PRESETS, name, changes)


def build(config: type[C], presets: dict[str, dict[str, Any]], name: str, changes: dict[str, Any]) -> C:
    """A preset of one way to train with changes on top.

    Raises:
        ConfigError: an unknown preset, or a field that this way to train does not have.
    """
    if name not in presets:
        raise ConfigError(f"training: preset is {name!r}, expected one of {', '.join(presets)}")
    unknown = changes.keys() - {f.name for f in fields(config)}
    if unknown:
        raise ConfigError(f"training: unknown setting {sorted(unknown)[0]!r} with method {config.method}")
    return config(**{**presets[name], **changes})
