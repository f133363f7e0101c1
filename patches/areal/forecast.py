"""What an asynchronous run will need: memory of trainer and servers, and the trainer's time of a step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from areal.api.alloc_mode import ModelAllocation, ParallelStrategy

from rlkv.train.forecast import (
    DEVICES,
    DecoderShape,
    Device,
    Pass,
    gib,
    known_device,
    scoring_work,
    server_bytes,
    sharded_training_bytes,
    training_work,
)
from rlkv.window import Window

from .config import GateExperimentConfig


def forecast(built: GateExperimentConfig, shape: DecoderShape, device_name: str) -> str:
    """A run's memory and time, a line each; responses are taken to be as long as they may be.

    Args:
        built: AReaL's configuration of the run.
        shape: of its model.
        device_name: as torch gives it; times of all known devices where it is none of them.
    """
    lines = (*_trainer(built, shape, device_name), _server(built, shape))
    return "\n".join(f"forecast: {line}" for line in lines)


def trainer_pass(built: GateExperimentConfig) -> Pass:
    """The largest micro-batch: as many of the longest responses as fit, their prompts spread over them."""
    packed = built.actor.mb_spec.max_tokens_per_mb
    sequences = max(1, packed // built.gconfig.max_new_tokens)
    element_bytes = getattr(torch, built.actor.dtype).itemsize
    return Pass(sequences, packed // sequences, element_bytes, built.actor.gradient_checkpointing)


def step_seconds(built: GateExperimentConfig, shape: DecoderShape, device: Device) -> float:
    """The trainer's time of a step: its passes one after the other, communication not counted."""
    work, ranks = trainer_pass(built), _parallel(built.actor.backend).dp_size
    window = Window(built.actor.gates.sink_size, built.actor.gates.recent_size)
    seconds = training_work(shape, window, work).seconds(device)
    if built.actor.should_compute_prox_logp():
        seconds += scoring_work(shape, window, work).seconds(device)
    return _responses(built) / work.sequences / ranks * seconds


def _trainer(built: GateExperimentConfig, shape: DecoderShape, device_name: str) -> Iterator[str]:
    work, ranks = trainer_pass(built), _parallel(built.actor.backend).dp_size
    memory = gib(sharded_training_bytes(shape, work, ranks))
    yield f"trainer: {memory} GiB on each of {ranks}, in a pass of {work.sequences} x {work.tokens} tokens"
    device = known_device(device_name)
    named = DEVICES if device is None else {device_name: device}
    seconds = {name: step_seconds(built, shape, each) for name, each in named.items()}
    times = ", ".join(f"{_short(time)} s on {name}" for name, time in seconds.items())
    yield f"trainer: a step of {_responses(built)} responses takes {times}, communication not counted"


def _server(built: GateExperimentConfig, shape: DecoderShape) -> str:
    parallel, tokens = _parallel(built.rollout.backend), built.gconfig.max_new_tokens
    own = -(-_responses(built) // parallel.dp_size)
    element_bytes = getattr(torch, built.actor.dtype).itemsize
    weights, held = server_bytes(shape, own, tokens, element_bytes, parallel.tp_size)
    return (
        f"server: {gib(weights)} GiB of weights and {gib(held)} GiB of keys and values on each GPU of "
        f"{parallel.dp_size} x {parallel.tp_size}, for {own} x {tokens} tokens, prompts not counted; with "
        "less, responses wait"
    )


def _short(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.2g}"


def _responses(built: GateExperimentConfig) -> int:
    return built.train_dataset.batch_size * built.gconfig.n_samples


def _parallel(backend: str) -> ParallelStrategy:
    return ModelAllocation.from_str(backend, name="forecast").parallel
