"""One asynchronous run: check, start the workers, train or resume, write heads.json."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rlkv.data import load_training_data
from rlkv.data.dataset import conversations
from rlkv.errors import ConfigError, TrainingError
from rlkv.loading import loading
from rlkv.models import resolve_model
from rlkv.train.folder import check_folder, claim_folder, heads_path, make_folder, steps_done

from .settings import ArealConfig

if TYPE_CHECKING:
    from rlkv.train.forecast import DecoderShape

    from .config import GateExperimentConfig

LOG = "areal.log"
NEEDED = ("areal", "sglang")
WORKFLOW = "rlkv_patches.areal.workflow.GradedWorkflow"


def check(config: ArealConfig) -> GateExperimentConfig:
    """Validate a run without weights, data or workers, and give AReaL's configuration of it.

    Raises:
        ConfigError: a package is missing, AReaL does not know an override, the GPUs do not do, or the folder
            has more steps.
        DataError: the run folder belongs to other settings.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(f"asynchronous training: found no {missing[0]}, expected it: see docs/training.md")
    import torch

    from .devices import check_dtype, memory_flags
    from .experiment import experiment
    from .orphans import this_process

    check_folder(Path(config.out), config)
    steps_done(Path(config.out), config)
    model = resolve_model(config.model)
    dtype = _stored_dtype(model) if config.dtype == "auto" else config.dtype
    gpus = torch.cuda.device_count()
    check_dtype(dtype, gpus)
    built = experiment(config, model, dtype, gpus, this_process())
    if gpus:
        device_bytes = torch.cuda.get_device_properties(0).total_memory
        with suppress(OSError):  # the forecast says so, and a dry run may be far from the model
            built.server_flags += memory_flags(built, _shape(model), gpus, device_bytes)
    return built


def forecast(built: GateExperimentConfig) -> str:
    """What the run will need, a line each, for this machine's device.

    Raises:
        ConfigError: the model's config cannot be read.
    """
    import torch

    from .forecast import forecast

    with loading(built.actor.path):
        shape = _shape(built.actor.path)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return forecast(built, shape, device)


def _shape(model: str) -> DecoderShape:
    from transformers import AutoConfig

    from rlkv.train.forecast import DecoderShape

    return DecoderShape.of(AutoConfig.from_pretrained(model))


def _stored_dtype(model: str) -> str:
    from transformers import AutoConfig

    with loading(model):
        dtype = str(AutoConfig.from_pretrained(model).dtype).removeprefix("torch.")
    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"{model}: dtype is {dtype}, expected float32 or bfloat16, or one set with --dtype")
    return dtype


def train(config: ArealConfig) -> Path:
    """Train the gates, or go on where an earlier start with the same settings stopped.

    Returns:
        Path of the run's heads.json.

    Raises:
        ConfigError: see ``check``; or a prompt is too long for a micro-batch.
        DataError: see ``check``; or the data is missing or empty.
        TrainingError: a server, a worker or the disk failed; what was learned is in the last checkpoint.
    """
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # AReaL compiles an attention that is not ours
    for module in ("areal", "torchdata"):
        warnings.filterwarnings("ignore", category=UserWarning, module=module)
    experiment = check(config)
    out = Path(config.out)
    if steps_done(out, config) == config.steps:
        return _results(config, experiment.actor.path)
    print(forecast(experiment), file=sys.stderr)
    dataset = conversations(load_training_data(config.data), "messages")
    _check_prompts(config, experiment.actor.path, dataset["messages"])
    make_folder(out)  # for the log
    from areal.infra.scheduler.exceptions import SchedulerError

    from .progress import StepLine

    with (out / LOG).open("a") as log, _printing_to(log.fileno()):
        try:
            from .trainer import GateTrainer

            trainer = GateTrainer(config, experiment, dataset, StepLine())
        except (SchedulerError, RuntimeError) as error:
            raise TrainingError(
                f"{out}: the run did not start: {_one_line(error)}, see {out / LOG}"
            ) from error
        claim_folder(out, config)  # by a run that began
        try:
            trainer.train(workflow=WORKFLOW, workflow_kwargs=trainer.workflow_settings())
        except (SchedulerError, RuntimeError) as error:
            trainer.stop_workers()  # they wait for each other, for minutes, and nobody comes any more
            raise TrainingError(
                f"{out}: the run ended: {_one_line(error)}; the same command goes on from the last checkpoint"
            ) from error
        finally:
            trainer.close()
    if trainer.unsaved:
        raise TrainingError(f"{out}: the last steps were not saved: {trainer.unsaved}")
    return heads_path(out)


def _results(config: ArealConfig, model: str) -> Path:
    """heads.json of a run that has all its steps, and its heat map."""
    from transformers import AutoConfig

    from .results import write_results

    with loading(model):
        shape = AutoConfig.from_pretrained(model)
    return write_results(config, shape, config.steps)


def _check_prompts(config: ArealConfig, model: str, prompts: Iterable[list[dict[str, str]]]) -> None:
    """Refuse a prompt that no micro-batch holds with the longest response: AReaL would end there."""
    from transformers import AutoTokenizer

    with loading(model):
        tokenizer = AutoTokenizer.from_pretrained(model)
    longest = max(
        len(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False))
        for prompt in prompts
    )
    room = config.tokens_per_micro_batch - config.max_new_tokens
    if longest > room:
        raise ConfigError(
            f"--tokens-per-micro-batch: found {config.tokens_per_micro_batch}, expected at least "
            f"{longest + config.max_new_tokens}: the longest prompt of {config.data} has {longest} tokens, a "
            f"response up to {config.max_new_tokens}"
        )


@contextmanager
def _printing_to(descriptor: int) -> Iterator[None]:
    """Send what this process and its workers print to a file: AReaL logs every step in a table."""
    kept = os.dup(1)
    os.dup2(descriptor, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 600 else f"{text[:300]} ... {text[-280:]}"
