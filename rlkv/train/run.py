"""One gate-training run in this process: load, train or resume, write heads.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
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
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from rlkv import atomic
from rlkv.attention.gates import attach_gates, read_gates
from rlkv.data import load_training_data
from rlkv.errors import DataError
from rlkv.heads import HeadsFile, ModelShape, Provenance, package_versions
from rlkv.models import resolve_model
from rlkv.train.config import TrainConfig
from rlkv.train.grpo import GateTrainer, grpo_arguments
from rlkv.train.progress import ProgressLine

CONFIG_FILE = "config.json"
COMPLETE_MARK = "complete"
"""Written last into a checkpoint: one without it was cut short and is passed over."""
PACKAGES = ("rlkv", "torch", "transformers", "trl")


def train(config: TrainConfig) -> Path:
    """Train the gates, or go on where an earlier start with the same settings stopped.

    Returns:
        Path of the run's heads.json.

    Raises:
        DataError: the run folder belongs to other settings, or the data is missing or empty.
        UnsupportedError: the model's attention cannot be mixed.
    """
    out, path = Path(config.out), resolve_model(config.model)
    dataset = _conversations(load_training_data(config.data))
    _claim_folder(out, config)
    set_seed(config.seed)
    logging.disable_progress_bar()  # of loading weights: it would tear through ours
    model = AutoModelForCausalLM.from_pretrained(path, dtype=config.dtype)
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    attach_gates(model, config.train_window, config.init_gate)
    arguments = grpo_arguments(config, out, use_cpu=not torch.cuda.is_available())
    writer = HeadsWriter(config, model)
    trainer = GateTrainer(model, tokenizer, config, arguments, dataset, callbacks=[writer, ProgressLine()])
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=_last_complete_checkpoint(out))
    return writer.write(trainer.state.global_step)


class HeadsWriter(TrainerCallback):
    """Writes heads.json at every checkpoint and marks the checkpoint complete."""

    def __init__(self, config: TrainConfig, model: PreTrainedModel) -> None:
        self.config = config
        self.model = model

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.write(state.global_step)
        folder = Path(self.config.out) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        atomic.write_text(folder / COMPLETE_MARK, "")

    def write(self, step: int) -> Path:
        """heads.json with the gates as they are now."""
        config = self.config
        path = Path(config.out) / "heads.json"
        HeadsFile(
            model=ModelShape.from_config(self.model.config, model_id=config.model, revision=None),
            gates=tuple(map(tuple, read_gates(self.model).tolist())),
            training_window=config.train_window,
            serving_window=config.serving_window,
            recommended_sparsity=config.recommended_sparsity,
            measured=(),
            provenance=Provenance(
                recipe=config.identity(),
                data=config.data,
                steps=step,
                seed=config.seed,
                packages=package_versions(*PACKAGES),
            ),
        ).write(path)
        return path


def _conversations(data: Dataset) -> Dataset:
    """TRL's columns: the prompt as messages, so that the chat template applies; what the reward needs."""
    prompts = [[{"role": "user", "content": text}] for text in data["prompt"]]
    columns = {name: data[name] for name in ("answer", "grader") if name in data.column_names}
    return Dataset.from_dict({"prompt": prompts, **columns})


def _claim_folder(out: Path, config: TrainConfig) -> None:
    """Make the folder this run's own, or check that it already is."""
    path = out / CONFIG_FILE
    wanted = json.loads(json.dumps(config.identity()))
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, json.dumps(wanted, indent=2))
        return
    found = json.loads(path.read_text())
    for name in wanted.keys() | found.keys():
        if wanted.get(name) != found.get(name):
            raise DataError(
                f"{path}: {name} is {found.get(name)!r}, this run has {wanted.get(name)!r}: "
                "continue with the folder's settings or choose another folder"
            )


def _last_complete_checkpoint(out: Path) -> str | None:
    """The newest checkpoint that was written to its end; removes those that were not."""
    folders = sorted(out.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda f: int(f.name.rsplit("-", 1)[1]))
    for folder in folders:
        if not (folder / COMPLETE_MARK).exists():
            shutil.rmtree(folder)
    complete = [folder for folder in folders if folder.exists()]
    return str(complete[-1]) if complete else None
