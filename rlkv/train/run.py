"""One run of reinforcement learning in this process: load, train or resume, write heads.json."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from rlkv.attention.gates import attach_gates, load_gates, read_gates
from rlkv.data import load_training_data
from rlkv.data.dataset import conversations
from rlkv.errors import ConfigError
from rlkv.loading import loading
from rlkv.models import resolve_model
from rlkv.train.config import TrainConfig
from rlkv.train.folder import (
    check_folder,
    checkpoint_folder,
    claim_folder,
    mark_complete,
    steps_done,
    write_heads,
)
from rlkv.train.forecast import DecoderShape, describe
from rlkv.train.grpo import GATES_FILE, GateTrainer, grpo_arguments
from rlkv.train.progress import ProgressLine

PACKAGES = ("rlkv", "torch", "transformers", "trl")


def check(config: TrainConfig) -> str:
    """Validate a run without weights or data, and say what it will need.

    Raises:
        DataError: the run folder belongs to other settings.
        ConfigError: no such model, several processes or GPUs.
    """
    _check_devices()
    check_folder(Path(config.out), config)
    path = resolve_model(config.model)
    with loading(config.model):
        model = AutoConfig.from_pretrained(path)
    dtype = model.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
    return describe(config, DecoderShape.of(model), dtype.itemsize, _device())


def train(config: TrainConfig) -> Path:
    """Train the gates, or go on where an earlier start with the same settings stopped.

    Returns:
        Path of the run's heads.json.

    Raises:
        DataError: the run folder belongs to other settings, or the data is missing or empty.
        ConfigError: no such model, several processes or GPUs, or fewer steps than the folder has.
        UnsupportedError: the model's attention cannot be mixed.
    """
    out, path = Path(config.out), resolve_model(config.model)
    _check_devices()
    check_folder(out, config)
    done = steps_done(out, config)
    dataset = conversations(load_training_data(config.data), "prompt")
    set_seed(config.seed)
    logging.disable_progress_bar()  # of loading weights: it would tear through ours
    with loading(config.model):
        model = AutoModelForCausalLM.from_pretrained(path, dtype=config.dtype)
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    attach_gates(model, config.train_window, config.init_gate)
    writer = HeadsWriter(config, model)
    if done == config.steps:  # transformers would take another step before it looks
        load_gates(model, checkpoint_folder(out, done) / GATES_FILE)
        return writer.write(done)
    shape, element_bytes = DecoderShape.of(model.config), model.dtype.itemsize
    print(describe(config, shape, element_bytes, _device()), file=sys.stderr)
    arguments = grpo_arguments(config, out, use_cpu=not torch.cuda.is_available())
    trainer = GateTrainer(model, tokenizer, config, arguments, dataset, callbacks=[writer, ProgressLine()])
    trainer.remove_callback(PrinterCallback)
    claim_folder(out, config)  # by a run that begins: a model that cannot be loaded leaves the folder free
    trainer.train(resume_from_checkpoint=str(checkpoint_folder(out, done)) if done else None)
    return writer.write(trainer.state.global_step)


class HeadsWriter(TrainerCallback):
    """Writes heads.json at every checkpoint and marks the checkpoint complete."""

    def __init__(self, config: TrainConfig, model: PreTrainedModel) -> None:
        self.config = config
        self.model = model

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        state.save_steps = self.config.save_every  # a checkpoint has that of the start before

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.write(state.global_step)
        mark_complete(checkpoint_folder(Path(self.config.out), state.global_step))

    def write(self, step: int) -> Path:
        """heads.json with the gates as they are now."""
        config = self.config
        return write_heads(config, self.model.config, read_gates(self.model), step, config.data, PACKAGES)


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _check_devices() -> None:
    """Refuse several processes or GPUs, among which this trainer would not share its work."""
    processes, gpus = int(os.environ.get("WORLD_SIZE", "1")), torch.cuda.device_count()
    if processes > 1 or gpus > 1:
        found = f"{processes} processes" if processes > 1 else f"{gpus} GPUs"
        raise ConfigError(
            f"found {found}, expected one process on one GPU (CUDA_VISIBLE_DEVICES=0); "
            "rlkv train-areal trains on several"
        )
