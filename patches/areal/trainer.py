"""AReaL's trainer with our engines, checkpoints and progress line."""

from __future__ import annotations

import random
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

from areal.api import SaveLoadMeta, StepInfo
from areal.api.alloc_mode import ModelAllocation
from areal.api.cli_args import InferenceEngineConfig, PPOActorConfig, TrainDatasetConfig
from areal.infra import LocalScheduler
from areal.infra.scheduler.exceptions import SchedulerError
from areal.trainer.rl_trainer import PPOTrainer
from areal.utils import logging
from areal.utils.recover import RecoverInfo
from datasets import Dataset
from torch.utils.data import Sampler
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import AutoConfig

from rlkv.errors import ConfigError, HeadsFileError, TrainingError
from rlkv.train.folder import (
    COMPLETE_MARK,
    checkpoint_folder,
    checkpoint_step,
    last_complete_checkpoint,
    mark_complete,
)

from .actor import GateActor
from .config import GateExperimentConfig
from .progress import StepLine
from .results import write_results
from .rollout import GateRolloutEngine
from .settings import ArealConfig

logger = logging.getLogger("GateTrainer")

WORKER_START_LIMIT_S = 600.0
KEPT_CHECKPOINTS = 2


class GateTrainer(PPOTrainer):
    """Trains gates, and goes on from the last whole checkpoint of its folder.

    Args:
        config: our settings.
        experiment: AReaL's, from ``experiment.experiment``.
        dataset: columns ``messages`` and ``answer``, in training order.
        line: shows how the run is doing.
    """

    def __init__(
        self, config: ArealConfig, experiment: GateExperimentConfig, dataset: Dataset, line: StepLine
    ) -> None:
        self.settings = config
        self.line = line
        self.unsaved = ""
        self.out = Path(config.out)
        checkpoint = last_complete_checkpoint(self.out)
        self.first_step = 0 if checkpoint is None else checkpoint_step(checkpoint)
        self.model_config = AutoConfig.from_pretrained(experiment.actor.path)
        Path(experiment.cluster.name_resolve.nfs_record_root).mkdir(parents=True, exist_ok=True)
        try:
            super().__init__(experiment, train_dataset=dataset)
            self._go_on_from(checkpoint)
        except BaseException:
            self.stop_workers()
            raise
        line.start(self.first_step, config.steps)

    def workflow_settings(self) -> dict[str, Any]:
        """Arguments of ``GradedWorkflow``."""
        return {
            "reward_fn": "rlkv_patches.areal.workflow.reward",
            "gconfig": self.config.gconfig,
            "tokenizer": self.config.tokenizer_path,
            "enable_thinking": True,
        }

    def _go_on_from(self, checkpoint: Path | None) -> None:
        """Load a checkpoint, and give the servers the gates of the version that training starts with."""
        if checkpoint is not None:
            self.actor.load(self._checkpoint(checkpoint))
            self.recover_info = RecoverInfo(self._step_info(self.first_step - 1), {}, {}, {}, {}, {})
            self.rollout.staleness_manager.on_version_recovered(self.first_step)
        for engine in (self.actor, self.rollout):
            engine.set_version(-1)  # AReaL announces an update under the version before it, once each
        self.actor.update_weights(self.weight_update_meta.with_version(self.first_step))
        for engine in (self.actor, self.rollout):
            engine.set_version(self.first_step)

    def _step_info(self, global_step: int) -> StepInfo:
        per_epoch = len(self.train_dataloader)
        return StepInfo(global_step // per_epoch, global_step % per_epoch, global_step, per_epoch)

    def _create_train_engine(self, actor_config: PPOActorConfig, alloc: ModelAllocation) -> Any:
        random.seed()  # ports are drawn from here: two runs with one seed would take the same
        actor = GateActor.as_controller(actor_config, self.scheduler)
        actor.create_process_group(parallel_strategy=alloc.parallel)
        return actor

    def _init_rollout(
        self, rollout_config: InferenceEngineConfig, is_eval: bool = False, lora_path: str | None = None
    ) -> Any:
        if is_eval:
            return None  # rlkv eval measures gates, on a server of its own
        rollout = GateRolloutEngine.as_controller(deepcopy(rollout_config), self.scheduler)
        rollout.initialize(role="rollout", server_args={"flags": list(self.config.server_flags)})
        return rollout

    def _init_scheduler(self) -> Any:
        if self.config.scheduler.type == "local":
            # Importing AReaL takes longer than the 30 s that its scheduler waits where cores are few.
            return LocalScheduler(exp_config=self.config, startup_timeout=WORKER_START_LIMIT_S)
        return super()._init_scheduler()

    def _create_dataloader(
        self, dataset: Dataset, dataset_config: TrainDatasetConfig, rank: int, world_size: int
    ) -> StatefulDataLoader:
        """The data in its own order, from where the checkpoint's steps ended."""
        batch = dataset_config.batch_size
        usable = len(dataset) // batch * batch
        if usable == 0:
            raise TrainingError(f"{self.settings.data}: {len(dataset)} problems, expected {batch} for a step")
        order = FromStep(usable, self.first_step * batch % usable)
        return StatefulDataLoader(dataset, batch_size=batch, sampler=order, collate_fn=list, drop_last=True)

    def _save_recover_checkpoint(self, epoch: int, epoch_step: int, global_step: int) -> None:
        step = global_step + 1
        if self.unsaved or step % self.settings.save_every == 0 or step == self.settings.steps:
            self.save(step)

    def save(self, step: int) -> None:
        """Write a checkpoint, heads.json and the heat map.

        When that fails, as on a full disk, training goes on, the last whole checkpoint stays, and every later
        step tries again.
        """
        folder = checkpoint_folder(self.out, step)
        try:
            self.actor.save(self._checkpoint(folder))
            mark_complete(folder)
            write_results(self.settings, self.model_config, step)
            self._remove_old()
            self.unsaved = ""
        except (OSError, SchedulerError, HeadsFileError, ConfigError) as error:
            if not (folder / COMPLETE_MARK).exists():
                shutil.rmtree(folder, ignore_errors=True)
            self.unsaved = " ".join(str(error).split())
            self.line.warn(f"{folder}: not written, trying again after the next step: {self.unsaved}")

    def _checkpoint(self, folder: Path) -> SaveLoadMeta:
        return SaveLoadMeta(
            path=str(folder.resolve()),
            weight_format="dcp",
            with_optim=True,
            tokenizer=None,
            processor=None,
            base_model_path=None,
        )

    def _remove_old(self) -> None:
        folders = self.out.glob(checkpoint_folder(self.out, 0).name.replace("0", "*"))
        for folder in sorted(folders, key=checkpoint_step)[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(folder)

    def _export_and_commit_stats(self, epoch: int, epoch_step: int, global_step: int) -> None:
        stats = self.actor.export_stats()
        stats.update(self.rollout.export_stats())
        self.stats_logger.commit(epoch, epoch_step, global_step, stats)
        self.line.show(global_step + 1, stats)

    def close(self) -> None:
        """Stop the workers; one that is gone already must not hide why the run ended."""
        try:
            super().close()
        except (SchedulerError, RuntimeError) as error:
            logger.warning(f"stopping the workers: {error}")
        finally:
            self.stop_workers()

    def stop_workers(self) -> None:
        """Kill those that are left: AReaL would do it when Python ends, too late for its threads."""
        if getattr(self, "scheduler", None) is not None:
            self.scheduler.delete_workers()


class FromStep(Sampler[int]):
    """Indices in order; the first pass begins where an earlier start of the run stopped.

    Args:
        size: of the data set, whole batches only.
        first: index to begin with.
    """

    def __init__(self, size: int, first: int) -> None:
        self.size, self.first = size, first

    def __iter__(self) -> Any:
        first, self.first = self.first, 0
        return iter(range(first, self.size))

    def __len__(self) -> int:
        return self.size
