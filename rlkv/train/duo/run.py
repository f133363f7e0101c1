"""One run of identification by distillation: load, distil or resume, write heads.json.

The full model is its own teacher: each pass runs it once with all heads full and once with mixed attention.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoTokenizer, set_seed
from transformers.utils import logging

from rlkv.attention.gates import gate_parameters
from rlkv.attention.registry import MIXED
from rlkv.loading import loading
from rlkv.models import resolve_model
from rlkv.train.duo.config import DuoConfig
from rlkv.train.duo.contexts import Contexts, collate, contexts_of
from rlkv.train.duo.loss import distillation_loss, learning_rate
from rlkv.train.duo.metrics import Metrics
from rlkv.train.duo.sharding import ShardedGates
from rlkv.train.folder import (
    check_folder,
    checkpoint_folder,
    checkpoint_step,
    claim_folder,
    heads_path,
    last_complete_checkpoint,
    mark_complete,
    write_heads,
)
from rlkv.train.penalty import l1_norm

PACKAGES = ("rlkv", "torch", "transformers", "deepspeed")
FULL = "sdpa"


def check(config: DuoConfig) -> None:
    """Validate a run without weights.

    Raises:
        DataError: the run folder belongs to other settings, or the filler cannot be read.
        ConfigError: no such model, or the settings do not fit it.
    """
    _prepared(config)


def train(config: DuoConfig) -> Path:
    """Find the gates by distillation, or go on where an earlier start with the same settings stopped.

    Returns:
        Path of the run's heads.json.

    Raises:
        DataError: the run folder belongs to other settings, or the filler cannot be read.
        ConfigError: no such model, or the settings do not fit it or the number of devices.
        UnsupportedError: the model's attention cannot be mixed.
    """
    out = Path(config.out)
    path, contexts = _prepared(config)
    set_seed(config.seed)
    logging.disable_progress_bar()  # of loading weights: it would tear through ours
    gates = ShardedGates(config, path)
    claim_folder(out, config)  # by a run that begins: a model that cannot be loaded leaves the folder free
    checkpoint = last_complete_checkpoint(out) if gates.rank == 0 else None
    begin = _agree(0 if checkpoint is None else checkpoint_step(checkpoint))
    if begin:
        gates.load(checkpoint_folder(out, begin))
    with Metrics(config, begin, is_main=gates.rank == 0) as metrics:
        for step in range(begin, config.steps):
            loss = _step(config, gates, contexts, step)
            done = step + 1
            metrics.show(done, {"distillation": loss, **gate_metrics(gates.read())})
            if done % config.save_every == 0 or done == config.steps:
                _save(config, gates, done)
    written = _write(config, gates, config.steps)
    gates.close()
    return written


def _prepared(config: DuoConfig) -> tuple[str, Contexts]:
    """Where the model is, and the contexts of the run: all that is known without weights."""
    path = resolve_model(config.model)
    check_folder(Path(config.out), config)
    with loading(config.model):
        tokenizer = AutoTokenizer.from_pretrained(path)
    return path, contexts_of(config, tokenizer)


def gate_metrics(gates: torch.Tensor) -> dict[str, float]:
    """What is logged of the gates at each step."""
    return {"gate/mean": gates.mean().item(), "gate/sparsity_at_0.5": (gates < 0.5).float().mean().item()}


def _step(config: DuoConfig, gates: ShardedGates, contexts: Contexts, step: int) -> float:
    """One optimiser step; returns its mean distillation loss over all devices."""
    for group in gates.engine.optimizer.param_groups:
        group["lr"] = learning_rate(step, config.steps, config.learning_rate, config.ramp_share)
    total = torch.zeros((), device=gates.engine.device)
    for index in range(gates.passes):
        first = ((step * gates.passes + index) * gates.world_size + gates.rank) * config.contexts_per_pass
        rows = [contexts(first + offset) for offset in range(config.contexts_per_pass)]
        ids, answer = (x.to(gates.engine.device) for x in collate(rows))
        loss = distillation_loss(*_hidden_states(gates, ids), answer)
        penalty = l1_norm([gate.float() for gate in gate_parameters(gates.model)])
        gates.engine.backward(loss + config.sparsity_weight * penalty)
        gates.engine.step()
        total += loss.detach() / gates.passes
    torch.distributed.all_reduce(total)
    return total.item() / gates.world_size


def _hidden_states(gates: ShardedGates, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Last hidden states [B, T, C] of the full model, without gradients, and with mixed attention."""
    gates.model.set_attn_implementation(FULL)
    with torch.no_grad():
        full = gates.engine(input_ids=ids, use_cache=False).last_hidden_state
    gates.model.set_attn_implementation(MIXED)
    return full, gates.engine(input_ids=ids, use_cache=False).last_hidden_state


def _save(config: DuoConfig, gates: ShardedGates, step: int) -> None:
    folder = checkpoint_folder(Path(config.out), step)
    gates.save(folder)
    _write(config, gates, step)
    torch.distributed.barrier()
    if gates.rank == 0:
        mark_complete(folder)


def _write(config: DuoConfig, gates: ShardedGates, step: int) -> Path:
    values = gates.read()
    if gates.rank == 0:
        write_heads(config, gates.model.config, values, step, str(config.contexts), PACKAGES)
    return heads_path(Path(config.out))


def _agree(value: int) -> int:
    """The first process's value, in all of them."""
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]
