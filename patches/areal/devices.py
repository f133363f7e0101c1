"""Trainers and servers on the GPUs of one machine: the precision that there is, and how memory is shared."""

from __future__ import annotations

from areal.api.alloc_mode import ModelAllocation

from rlkv.errors import ConfigError
from rlkv.train.forecast import DecoderShape, gib, sharded_training_bytes

from .config import GateExperimentConfig
from .forecast import trainer_pass

SERVER_SHARE = 0.85
"""Of a GPU's memory, what server and trainer share; SGLang's activations and CUDA graphs take the rest."""

LEAST_SHARE = 0.1
"""Of a GPU's memory, the least that a server is started with."""

MEMORY_FLAG = "--mem-fraction-static"


def check_dtype(dtype: str, gpus: int) -> None:
    """Refuse float32 where servers run on GPUs.

    Raises:
        ConfigError: one line.
    """
    if gpus and dtype == "float32":
        raise ConfigError(
            "dtype is float32, expected bfloat16 on a machine with GPUs (--dtype bfloat16): SGLang's "
            "FlashInfer attention has no float32"
        )


def memory_flags(built: GateExperimentConfig, shape: DecoderShape, gpus: int, device_bytes: int) -> list[str]:
    """Flags by which a server leaves the trainer its memory, where both are on one GPU.

    AReaL's local scheduler gives GPUs to processes in turn, from the first again when they are spent.

    Args:
        built: AReaL's configuration of the run.
        shape: of its model.
        gpus: of this machine.
        device_bytes: memory of each.

    Raises:
        ConfigError: the trainer leaves a server no room.
    """
    trainers, servers = (
        ModelAllocation.from_str(backend, name="devices").parallel
        for backend in (built.actor.backend, built.rollout.backend)
    )
    given = any(flag.startswith(MEMORY_FLAG) for flag in built.server_flags)
    enough = gpus >= trainers.world_size + servers.world_size
    if built.scheduler.type != "local" or not gpus or enough or given:
        return []
    trainer = sharded_training_bytes(shape, trainer_pass(built), trainers.dp_size)
    share = SERVER_SHARE - trainer / device_bytes
    if share < LEAST_SHARE:
        raise ConfigError(
            f"{gpus} GPUs of {gib(device_bytes)} GiB for {trainers.world_size} trainers and servers on "
            f"{servers.world_size}: a trainer takes {gib(trainer)} GiB, expected room for a server beside it "
            "(--tokens-per-micro-batch), or more GPUs"
        )
    return [f"{MEMORY_FLAG}={share:.2f}"]
