"""From our settings to AReaL's configuration."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from areal.api.alloc_mode import ModelAllocation
from areal.api.cli_args import (
    ClusterSpecConfig,
    FSDPEngineConfig,
    GenerationHyperparameters,
    MicroBatchSpec,
    NameResolveConfig,
    NormConfig,
    OptimizerConfig,
    RecoverConfig,
    RejectionSamplingConfig,
    SaverConfig,
    SchedulerConfig,
    SchedulingSpec,
    StatsLoggerConfig,
    TensorBoardConfig,
    TrainDatasetConfig,
    WandBConfig,
)
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlkv.errors import ConfigError
from rlkv.train.config import Advantage

from .config import GateActorConfig, GateExperimentConfig, GateRolloutConfig, GateSpec
from .settings import ArealConfig

EXPERIMENT, TRIAL = "rlkv", "gates"
ADVANTAGE_EPS = 1e-4
"""Added to the standard deviation of rewards, as in TRL."""
ALL_TOKENS = 1 << 30
"""AReaL's top-k that keeps every token, and a limit of prompt and response that none reaches."""
LARGEST_WEIGHT = 5.0
"""Of a token whose rollout is behind: AReaL's own bound until it had to be asked for."""
OWNED = {
    "seed": "seed",
    "total_train_steps": "steps",
    "scheduler.type": "scheduler",
    "train_dataset.path": "data",
    "train_dataset.batch_size": "prompts-per-step",
    "gconfig.n_samples": "group-size",
    "gconfig.max_new_tokens": "max-new-tokens",
    "gconfig.temperature": "temperature",
    "gconfig.top_p": "top-p",
    "gconfig.top_k": "top-k",
    "actor.path": "model",
    "actor.backend": "trainer",
    "actor.dtype": "dtype",
    "actor.gradient_checkpointing": "gradient-checkpointing",
    "actor.mb_spec.max_tokens_per_mb": "tokens-per-micro-batch",
    "actor.temperature": "temperature",
    "actor.max_new_tokens": "max-new-tokens",
    "actor.weight_update_mode": "weight-update",
    "actor.optimizer.lr": "learning-rate",
    "actor.optimizer.weight_decay": "weight-decay",
    "actor.optimizer.gradient_clipping": "max-grad-norm",
    "actor.eps_clip": "clip",
    "actor.reward_scaling": "reward-scale",
    "actor.reward_bias": "reward-bias",
    "actor.reward_norm.group_size": "group-size",
    "actor.reward_norm.mean_level": "advantage",
    "actor.reward_norm.std_level": "advantage",
    "actor.use_decoupled_loss": "max-staleness",
    "actor.gates.sink_size": "train-window",
    "actor.gates.recent_size": "train-window",
    "actor.gates.init": "init-gate",
    "actor.gates.beta": "beta",
    "actor.gates.reward_threshold": "reward-threshold",
    "actor.gates.reward_scope": "reward-scope",
    "rollout.backend": "rollout",
    "rollout.consumer_batch_size": "prompts-per-step",
    "rollout.max_head_offpolicyness": "max-staleness",
    "server_flags": "server-flags",
}
"""What is decided by which option of ours: changed alone, it would contradict what else hangs on it."""
START_LIMIT_S = 1800.0
"""Seconds that a server may take to start; kernels are compiled the first time."""


def experiment(
    config: ArealConfig, model: str, dtype: str, gpus: int, controller: str
) -> GateExperimentConfig:
    """AReaL's configuration of a run.

    Args:
        config: our settings.
        model: folder or hub id of the model.
        dtype: of the frozen weights, float32 or bfloat16.
        gpus: of this machine; 0 trains and serves on the CPU.
        controller: this process, as ``orphans.this_process`` names it.

    Raises:
        ConfigError: an override that AReaL does not know, or that gates cannot be trained with.
    """
    files = Path(config.out).resolve() / "areal"
    names = {"experiment_name": EXPERIMENT, "trial_name": TRIAL}
    built = GateExperimentConfig(
        **names,
        seed=config.seed,
        tokenizer_path=model,
        total_train_epochs=config.steps,  # more than enough: the number of steps ends the run
        total_train_steps=config.steps,
        cluster=ClusterSpecConfig(
            fileroot=str(files), name_resolve=NameResolveConfig(nfs_record_root=str(files / "names"))
        ),
        scheduler=SchedulerConfig(type=config.scheduler),
        train_dataset=TrainDatasetConfig(
            path=config.data,
            type="rl",
            batch_size=config.prompts_per_step,
            shuffle=False,
            scheduling_spec=None,
        ),
        gconfig=GenerationHyperparameters(
            n_samples=config.group_size,
            max_new_tokens=config.max_new_tokens,
            max_tokens=ALL_TOKENS,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k or ALL_TOKENS,
        ),
        actor=_actor(config, names, model, dtype, gpus, controller),
        rollout=_rollout(config, names, files, model, gpus, controller),
        server_flags=_server_flags(config, model, dtype),
        saver=SaverConfig(**names, fileroot=str(files)),
        recover=RecoverConfig(**names, fileroot=str(files), mode="off"),  # trainer.py keeps checkpoints
        stats_logger=StatsLoggerConfig(
            **names,
            fileroot=str(files),
            wandb=WandBConfig(mode="online" if "wandb" in config.report_to else "disabled"),
            tensorboard=TensorBoardConfig(path=_tensorboard(config)),
        ),
    )
    built.evaluator.experiment_name, built.evaluator.trial_name = EXPERIMENT, TRIAL
    built.evaluator.fileroot = str(files)
    overridden = _override(built, config.overrides)
    _refuse_what_gates_do_not_know(overridden, config)
    return overridden


def describe(built: GateExperimentConfig) -> str:
    """As YAML, what differs from AReaL's own defaults."""
    default = OmegaConf.to_container(OmegaConf.structured(GateExperimentConfig))
    return OmegaConf.to_yaml(_difference(OmegaConf.to_container(OmegaConf.structured(built)), default))


def _difference(value: Any, default: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(default, dict):
        return value
    changed = {name: item for name, item in value.items() if name not in default or item != default[name]}
    return {name: _difference(item, default.get(name)) for name, item in changed.items()}


def _actor(
    config: ArealConfig, names: dict[str, str], model: str, dtype: str, gpus: int, controller: str
) -> GateActorConfig:
    level = "group" if config.advantage is Advantage.GROUP else "batch"
    return GateActorConfig(
        **names,
        path=model,
        backend=config.trainer,
        attn_impl="sdpa",  # replaced when the gates are attached
        dtype=dtype,
        optimizer_dtype=dtype,  # of the frozen weights; the gates are float32
        gradient_checkpointing=config.gradient_checkpointing,
        fsdp=FSDPEngineConfig(),
        mb_spec=MicroBatchSpec(max_tokens_per_mb=config.tokens_per_micro_batch),
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        weight_update_mode=config.weight_update,
        optimizer=OptimizerConfig(
            type="adam",
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            lr_scheduler_type="constant",
            warmup_steps_proportion=0.0,
            gradient_clipping=config.max_grad_norm,
        ),
        ppo_n_minibatches=1,
        eps_clip=config.clip,
        kl_ctl=0.0,
        reward_scaling=config.reward_scale,
        reward_bias=config.reward_bias,
        reward_norm=NormConfig(
            mean_level=level, std_level=level, eps=ADVANTAGE_EPS, group_size=config.group_size
        ),
        use_decoupled_loss=config.max_staleness > 0,
        # Without it the loss has no weight for the policy of the rollout, only PPO's ratio, which is 1.
        rejection_sampling=RejectionSamplingConfig(
            level="token", action="mask", metric="ratio", upper=LARGEST_WEIGHT
        )
        if config.max_staleness > 0
        else None,
        scheduling_spec=(_process(gpus),),
        controller=controller,
        gates=GateSpec(
            sink_size=config.train_window.sink_size,
            recent_size=config.train_window.recent_size,
            init=config.init_gate,
            beta=config.beta,
            reward_threshold=config.reward_threshold,
            reward_scope=str(config.reward_scope),
        ),
    )


def _rollout(
    config: ArealConfig, names: dict[str, str], files: Path, model: str, gpus: int, controller: str
) -> GateRolloutConfig:
    return GateRolloutConfig(
        **names,
        fileroot=str(files),
        backend=config.rollout,
        tokenizer_path=model,
        consumer_batch_size=config.prompts_per_step,
        max_head_offpolicyness=config.max_staleness,
        setup_timeout=START_LIMIT_S,
        scheduling_spec=(_process(gpus),),
        # Over the network nobody has the gates any more that a new server would need.
        server_restarts=config.server_restarts if config.weight_update == "disk" else 0,
        controller=controller,
    )


def _process(gpus: int) -> SchedulingSpec:
    """A worker: this interpreter, not whichever ``python`` is found first, with what it inherits from us."""
    inherited = ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "TORCHDYNAMO_DISABLE", "PYTHONPATH")
    return SchedulingSpec(
        cpu=1,
        gpu=min(gpus, 1),
        cmd=f"{sys.executable} -m areal.infra.rpc.rpc_server",
        env_vars={name: os.environ[name] for name in inherited if name in os.environ},
    )


def _server_flags(config: ArealConfig, model: str, dtype: str) -> list[str]:
    window, parallel = config.train_window, ModelAllocation.from_str(config.rollout, name="rollout").parallel
    flags = {
        "--model-path": model,
        "--dtype": dtype,
        "--random-seed": config.seed,
        "--tp-size": parallel.tp_size,
        "--rlkv-gates": "ones",  # those of version 0 are pushed before the first rollout
        "--rlkv-sink-size": window.sink_size,
        "--rlkv-recent-size": window.recent_size,
    }
    return [*(f"{name}={value}" for name, value in flags.items()), *config.server_flags]


def _tensorboard(config: ArealConfig) -> str | None:
    return str(Path(config.out).resolve() / "tensorboard") if "tensorboard" in config.report_to else None


def _refuse_what_gates_do_not_know(built: GateExperimentConfig, config: ArealConfig) -> None:
    """Overrides that would lay out processes or sequences in ways that attention and head do not handle."""
    actor = built.actor
    expected = {
        "actor.enable_tree_training": (actor.enable_tree_training, False),
        "actor.use_lora": (actor.use_lora, False),
    }
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise ConfigError(f"AReaL: {name} is {found!r}, expected {wanted!r} where gates are trained")


def _override(built: GateExperimentConfig, overrides: Sequence[str]) -> GateExperimentConfig:
    for item in overrides:
        name, is_one, _ = item.partition("=")
        if not is_one:
            raise ConfigError(f"--set: found {item!r}, expected name=value")
        if name in OWNED:
            raise ConfigError(f"--set {item}: expected --{OWNED[name]}, which sets all that hangs together")
    try:
        merged: Any = OmegaConf.merge(OmegaConf.structured(built), OmegaConf.from_dotlist(list(overrides)))
        return cast(GateExperimentConfig, OmegaConf.to_object(merged))
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"AReaL: {str(error).splitlines()[0]}") from error
