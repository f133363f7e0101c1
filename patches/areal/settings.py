"""Settings of asynchronous training: those of ``rlkv train``, and how its processes are laid out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rlkv.train.config import CHECKPOINTING, PRESETS, RewardScope, TrainConfig, require, setting

METHOD = "grpo-areal"
LOGGERS = ("tensorboard", "wandb")
"""Of those that ``--report-to`` may name, the ones that a run is wired to."""


@dataclass(frozen=True)
class ArealConfig(TrainConfig):
    """One run of reinforcement learning with rollouts from SGLang servers.

    Everything that ``rlkv train`` has means the same here, but for ``micro_batch_size``: AReaL packs the
    responses of a forward pass by tokens.
    """

    method: ClassVar[str] = METHOD
    uncounted: ClassVar[tuple[str, ...]] = (
        *TrainConfig.uncounted,
        "micro_batch_size",
        "tokens_per_micro_batch",
        "trainer",
        "rollout",
        "scheduler",
        "server_flags",
        "server_restarts",
        "weight_update",
    )

    gradient_checkpointing: bool = setting(True, CHECKPOINTING)
    max_staleness: int = setting(
        0,
        "Versions of the gates that a rollout may be behind. 0: generate and train in turn; above: at the "
        "same time, with the decoupled loss.",
    )
    trainer: str = setting("fsdp:d1", "Processes that train, in AReaL's notation: fsdp:d4 is four.")
    rollout: str = setting("sglang:d1", "Servers, in AReaL's notation: sglang:d2t4 is two of four GPUs each.")
    scheduler: str = setting("local", "What starts the processes: local, ray or slurm.")
    tokens_per_micro_batch: int = setting(
        17408,
        "Tokens of one forward and backward pass; bounds the memory. Room for two of 8,192 with prompts.",
    )
    weight_update: str = setting("disk", "How gates reach the servers: disk, or xccl (over the network).")
    server_flags: tuple[str, ...] = setting((), "More flags of the SGLang servers, such as --page-size=16.")
    server_restarts: int = setting(
        3, "How often a worker starts a server anew that died; never where gates go over the network."
    )

    overrides: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Anything else in AReaL's own configuration, name=value, such as actor.mb_spec.n_mbs=2.",
            "flag": "--set",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "max_staleness", self.max_staleness >= 0, "at least 0")
        require(self, "server_restarts", self.server_restarts >= 0, "at least 0")
        require(self, "scheduler", self.scheduler in ("local", "ray", "slurm"), "local, ray or slurm")
        require(self, "weight_update", self.weight_update in ("disk", "xccl"), "disk or xccl")
        longest = self.max_new_tokens
        require(
            self,
            "tokens_per_micro_batch",
            self.tokens_per_micro_batch > longest,
            f"more than max_new_tokens = {longest}, and the prompt with it",
        )
        require(
            self,
            "trainer",
            re.fullmatch(r"fsdp:d[1-9]\d*", self.trainer) is not None,
            "fsdp:dN, such as fsdp:d2: gates are trained by data parallelism, which shards the model too",
        )
        require(
            self,
            "rollout",
            re.fullmatch(r"sglang:d[1-9]\d*(t[1-9]\d*)?", self.rollout) is not None,
            "sglang:dN or sglang:dNtM, such as sglang:d2",
        )
        trainers = int(self.trainer.removeprefix("fsdp:d"))
        require(
            self,
            "prompts_per_step",
            self.prompts_per_step % trainers == 0,
            f"a multiple of {trainers}, among which {self.trainer} shares them",
        )
        require(
            self,
            "report_to",
            set(self.report_to) <= set(LOGGERS),
            f"some of {', '.join(LOGGERS)}",
        )

    def identity(self) -> dict[str, Any]:
        """As that of ``rlkv train``; micro-batches count where the penalty follows their rewards."""
        values = super().identity()
        if self.reward_scope is RewardScope.MICRO_BATCH:
            values["tokens_per_micro_batch"] = self.tokens_per_micro_batch
        if not self.overrides:
            del values["overrides"]
        return values


AREAL_PRESETS: dict[str, dict[str, Any]] = {
    **PRESETS,
    "code": PRESETS["code"] | {"max_staleness": 2},
}
"""As those of ``rlkv train``, and the authors' off-policyness of 2 with the decoupled loss in ``code``."""
