"""The run folder of gate training: whose it is, its checkpoints, its heads.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import PretrainedConfig
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from rlkv import atomic
from rlkv.errors import ConfigError, DataError
from rlkv.heads import HeadsFile, ModelShape, Provenance, package_versions
from rlkv.train.config import RunConfig

CONFIG_FILE = "config.json"
COMPLETE_MARK = "complete"
"""Written last into a checkpoint: one without it was cut short and is passed over."""


def claim_folder(out: Path, config: RunConfig) -> None:
    """Make the folder this run's own, which ``check_folder`` found free or this run's.

    Raises:
        DataError: see ``make_folder``.
    """
    path = out / CONFIG_FILE
    if not path.exists():
        make_folder(out)
        atomic.write_text(path, json.dumps(config.identity(), indent=2))


def check_folder(out: Path, config: RunConfig) -> None:
    """Check that the folder can be made, or is free or this run's own; nothing is written.

    Raises:
        DataError: a file is in its way, or it belongs to a run with other settings; the line names the first
            that differs.
    """
    path = out / CONFIG_FILE
    nearest = next(folder for folder in (out, *out.parents) if folder.exists())
    if not nearest.is_dir():
        raise DataError(f"{out}: cannot be made: {nearest} is a file, expected a folder")
    if not path.exists():
        return
    wanted = json.loads(json.dumps(config.identity()))
    found = json.loads(path.read_text())
    for name in dict.fromkeys([*wanted, *found]):
        if wanted.get(name) != found.get(name):
            raise DataError(
                f"{path}: {name} is {found.get(name)!r}, this run has {wanted.get(name)!r}: "
                "continue with the folder's settings or choose another folder"
            )


def make_folder(out: Path) -> None:
    """Make the run's folder, if it is not there.

    Raises:
        DataError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be made: {error.strerror}, expected a folder to write to") from error


def heads_path(out: Path) -> Path:
    """Where the run's heads file is, once there is a checkpoint."""
    return out / "heads.json"


def checkpoint_folder(out: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` steps lies."""
    return out / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def checkpoint_step(folder: Path) -> int:
    """The step of a checkpoint's folder."""
    return int(folder.name.rsplit("-", 1)[1])


def last_complete_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint that was written to its end; removes those that were not."""
    folders = sorted(out.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=checkpoint_step)
    for folder in folders:
        if not (folder / COMPLETE_MARK).exists():
            shutil.rmtree(folder)
    complete = [folder for folder in folders if folder.exists()]
    return complete[-1] if complete else None


def steps_done(out: Path, config: RunConfig) -> int:
    """Steps of the newest complete checkpoint, 0 if there is none.

    Raises:
        ConfigError: more than the run is to have: its gates cannot be those of fewer steps.
    """
    checkpoint = last_complete_checkpoint(out)
    done = 0 if checkpoint is None else checkpoint_step(checkpoint)
    if done > config.steps:
        raise ConfigError(
            f"--steps: found {config.steps}, expected at least {done}, which {out} has, or another folder"
        )
    return done


def mark_complete(folder: Path) -> None:
    """Say that a checkpoint was written to its end."""
    atomic.write_text(folder / COMPLETE_MARK, "")


def write_heads(
    config: RunConfig,
    model_config: PretrainedConfig,
    gates: torch.Tensor,
    step: int,
    data: str,
    packages: tuple[str, ...],
) -> Path:
    """Write heads.json into the run's folder.

    Args:
        config: of the run.
        model_config: of the model that the gates belong to.
        gates: [num_layers, num_kv_heads] in [0, 1].
        step: steps that the gates were trained for.
        data: what they were trained on.
        packages: whose versions are recorded.

    Returns:
        Its path.
    """
    path = heads_path(Path(config.out))
    HeadsFile(
        model=ModelShape.from_config(model_config, model_id=config.model, revision=None),
        gates=tuple(map(tuple, gates.tolist())),
        training_window=config.train_window,
        serving_window=config.serving_window,
        recommended_sparsity=config.recommended_sparsity,
        measured=(),
        provenance=Provenance(
            recipe=config.identity(),
            data=data,
            steps=step,
            seed=config.seed,
            packages=package_versions(*packages),
        ),
    ).write(path)
    return path
