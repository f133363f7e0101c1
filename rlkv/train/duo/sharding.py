"""DeepSpeed ZeRO-3 around a model with gates: every device holds a share of the frozen weights.

On one device the share is everything. DeepSpeed steps the gates in float32, whatever the precision of the
model, and they are read back from there.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from rlkv.attention.gates import attach_gates, clamp_after_each_step, gate_parameters
from rlkv.errors import ConfigError, RLKVError
from rlkv.loading import loading
from rlkv.train.duo.config import DuoConfig

STATE = "deepspeed"
"""Folder of DeepSpeed's own state in a checkpoint."""


class ShardedGates:
    """A decoder without its language head, with gates, in a DeepSpeed engine.

    Args:
        config: of the run.
        path: what ``from_pretrained`` takes.

    Attributes:
        rank, world_size: of this process.
        model: the decoder.
        engine: DeepSpeed's; call it like the model.

    Raises:
        RLKVError: DeepSpeed is not installed.
        ConfigError: the contexts of a step do not divide by the number of devices.
    """

    def __init__(self, config: DuoConfig, path: str) -> None:
        self._deepspeed = deepspeed = _import_deepspeed()
        _join_processes(deepspeed)
        self.rank, self.world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.passes = passes_per_step(config, self.world_size)
        dtype = _dtype(config, path)
        settings = zero_settings(config, self.passes, dtype)
        self.model = _load_sharded(path, dtype, settings)
        gates = attach_gates(self.model, config.train_window, config.init_gate)
        for gate in gates:
            gate.data = gate.data.to(dtype)  # DeepSpeed wants one precision, and keeps a float32 copy
        if config.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.optimizer = torch.optim.AdamW(gates, lr=config.learning_rate, weight_decay=config.weight_decay)
        clamp_after_each_step(self.optimizer)
        self.engine = deepspeed.initialize(
            model=self.model, optimizer=self.optimizer, model_parameters=gates, config=settings
        )[0]
        self.engine.train()

    def read(self) -> torch.Tensor:
        """The gates: float32 [num_layers, num_kv_heads] on the CPU. All processes must call it together."""
        from deepspeed.utils import safe_get_full_fp32_param

        rows = [safe_get_full_fp32_param(gate) for gate in gate_parameters(self.model)]
        return torch.stack([row.detach().float().cpu().clone() for row in rows])

    def save(self, folder: Path) -> None:
        """Write gates and optimiser, without the frozen model. All processes must call it together."""
        self.engine.save_checkpoint(str(folder), tag=STATE, exclude_frozen_parameters=True)

    def close(self) -> None:
        """Leave the group of processes."""
        self._deepspeed.comm.destroy_process_group()

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote, on as many devices."""
        self.engine.load_checkpoint(str(folder), tag=STATE, load_module_strict=False)


def passes_per_step(config: DuoConfig, world_size: int) -> int:
    """Forward and backward passes of one device in a step.

    Raises:
        ConfigError: the contexts of a step cannot be shared out evenly.
    """
    at_once = config.contexts_per_pass * world_size
    if config.contexts_per_step % at_once:
        raise ConfigError(
            f"training: contexts_per_step is {config.contexts_per_step}, expected a multiple of {at_once}, "
            f"{config.contexts_per_pass} a pass on each of {world_size} devices"
        )
    return config.contexts_per_step // at_once


def zero_settings(config: DuoConfig, passes: int, dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's configuration."""
    return {
        "train_micro_batch_size_per_gpu": config.contexts_per_pass,
        "gradient_accumulation_steps": passes,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "zero_optimization": {"stage": 3},
        "zero_allow_untested_optimizer": True,
    }


def _import_deepspeed() -> Any:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
    except ImportError as error:
        raise RLKVError("method duo needs deepspeed: pip install 'rlkv[train,duo]'") from error
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    # Its names for torch's collectives are deprecated ones; torch says so at every call.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if not torch.cuda.is_available():
        # On a CPU it would compile a C++ extension for sums over processes; those of torch do as well.
        deepspeed.ops.__compatible_ops__ = {}
    return deepspeed


def _join_processes(deepspeed: Any) -> None:
    """Join the processes of ``torchrun``, or be the only one."""
    if "RANK" not in os.environ:
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ.update(alone, MASTER_PORT=str(_free_port()))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _dtype(config: DuoConfig, path: str) -> torch.dtype:
    """Precision of the frozen weights; what is stored in float16 is computed in float32."""
    stored = AutoConfig.from_pretrained(path).dtype if config.dtype == "auto" else None
    name = config.dtype if stored is None else str(stored).removeprefix("torch.")
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def _load_sharded(path: str, dtype: torch.dtype, settings: dict[str, Any]) -> PreTrainedModel:
    """The decoder; no device ever holds more than its share and the layer being read."""
    from transformers.integrations import HfDeepSpeedConfig

    sharding = HfDeepSpeedConfig(settings)  # from_pretrained shards as long as this object lives
    with loading(path):
        model = AutoModel.from_pretrained(path, dtype=dtype)
    del sharding
    return model
