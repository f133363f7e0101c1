"""What AReaL's own configuration does not hold: the gates and the rollout servers' flags.

AReaL sends these dataclasses to its workers, so they hold plain values only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from areal.api.cli_args import GRPOConfig, InferenceEngineConfig, PPOActorConfig


@dataclass
class GateSpec:
    """How the actor trains gates."""

    sink_size: int = 128
    """First tokens of a sequence that the streaming part of mixed attention sees."""
    recent_size: int = 256
    """Recent tokens that it sees, the current one included."""
    init: float = 1.0
    """First value of every gate."""
    beta: float = 1e-3
    """Strength of the penalty."""
    reward_threshold: float = 0.5
    """Mean reward above which the penalty acts."""
    reward_scope: str = "group"
    """Responses over which that mean is taken: a value of ``rlkv.train.config.RewardScope``."""
    max_bad_steps: int = 3
    """Steps in a row that may have a gradient that is not finite; one more ends the run."""


@dataclass
class GateActorConfig(PPOActorConfig):
    """AReaL's actor, with gates."""

    gates: GateSpec = field(default_factory=GateSpec)
    """How the gates are trained."""
    controller: str = ""
    """Process of the controller as ``host:pid:start``, whose death ends a worker on its machine; or empty."""


@dataclass
class GateRolloutConfig(InferenceEngineConfig):
    """AReaL's rollout engine, with servers that can be started again."""

    server_restarts: int = 3
    """How often a rollout worker starts a server anew that died; 0 where it could not get the gates."""
    controller: str = ""
    """As in ``GateActorConfig``."""


@dataclass
class GateExperimentConfig(GRPOConfig):
    """AReaL's experiment, with the parts above."""

    actor: GateActorConfig = field(default_factory=GateActorConfig)
    """The trainer of the gates."""
    rollout: GateRolloutConfig = field(default_factory=GateRolloutConfig)
    """The rollout workers."""
    server_flags: list[str] = field(default_factory=list)
    """Flags of ``python -m sglang.launch_server``, host and port excepted."""
