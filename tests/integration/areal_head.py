"""The actor's language head against AReaL's own, and what the actor holds in memory; one rank on the CPU.

Started by test_areal_head.py with torch's distributed variables set; writes what it saw as JSON.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch
from areal.api import FinetuneSpec
from areal.engine.fsdp_engine import FSDPPPOActor
from areal_actor import MODEL, group
from rlkv_patches.areal.actor import GateActor
from rlkv_patches.areal.experiment import experiment
from rlkv_patches.areal.recipe import from_recipe

from rlkv.attention.gates import named_gates, read_gates, write_gates
from rlkv.train import packed

GROUPS = 2
PIECE = 16
"""Tokens of a piece of the head: several pieces, and a last one that is shorter."""


class Watched(GateActor):
    """Keeps what each micro-batch gave to the loss."""

    def train_batch(self, input_: Any, loss_fn: Any, loss_weight_fn: Any) -> dict[str, float]:
        self.given: list[list[torch.Tensor]] = []

        def watching(logprobs: torch.Tensor, entropy: torch.Tensor, batch: Any, **kw: Any) -> Any:
            columns = (logprobs, entropy, kw["vocab_min_logits"], kw["vocab_max_logits"])
            self.given.append([column.detach() for column in columns])
            return loss_fn(logprobs, entropy, batch, **kw)

        return super().train_batch(input_, watching, loss_weight_fn)


class WholeLogits(Watched):
    """AReaL's own way from logits to the loss."""

    _create_device_model = FSDPPPOActor._create_device_model
    _prepare_mb_inputs = FSDPPPOActor._prepare_mb_inputs
    _compute_logprobs = FSDPPPOActor._compute_logprobs
    _compute_logprobs_entropy = FSDPPPOActor._compute_logprobs_entropy
    _get_vocab_min_max_logits = FSDPPPOActor._get_vocab_min_max_logits


def started(kind: type[GateActor], dtype: str = "float32", **changes: Any) -> Any:
    settings = {"group_size": 3, "prompts_per_step": GROUPS, "temperature": 0.7, **changes}
    small = {"max_new_tokens": 90, "tokens_per_micro_batch": 100}
    config = from_recipe("tiny-reasoner", None, settings | small)
    actor = kind(experiment(config, MODEL, dtype, 0, "").actor)
    actor.create_process_group()
    actor.initialize(None, FinetuneSpec(1, 3, 3))
    gates = read_gates(actor.model)
    write_gates(actor.model, torch.rand(gates.shape, generator=torch.Generator().manual_seed(7)))
    return actor


def step(actor: Any) -> list[torch.Tensor]:
    """Log-probabilities of all responses before a step, which is then taken."""
    own = [group(index) for index in range(GROUPS)]
    logprobs = actor.compute_logp([dict(item) for item in own])
    for item, row in zip(own, logprobs, strict=True):
        item["logprobs"] = torch.roll(row, 1, -1) * item["loss_mask"]
    actor.set_version(0)
    actor.ppo_update(actor.compute_advantages(own))
    return logprobs


def calls_of_layers(actor: Any) -> list[int]:
    """Counts the forward passes of the first layer from now on, in a list of one."""
    calls = [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    actor.model.model.layers[0].mlp.register_forward_pre_hook(count)
    return calls


def largest_gap(ones: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(ones, others, strict=True))


def gap_of_gradients(actor: Any, other: Any) -> float:
    """Largest difference as a share of the largest gradient."""
    own, others = ([gate.grad for gate in each.gates] for each in (actor, other))
    return largest_gap(own, others) / max(float(grad.abs().max()) for grad in others)


def memory(actor: Any) -> dict[str, Any]:
    """Bytes of the actor's parameters, and of all floating-point tensors that this process holds."""
    gates = {id(gate) for gate in named_gates(actor.model).values()}
    own, frozen = [], []
    for parameter in actor.model.parameters():
        (own if id(parameter) in gates else frozen).append(parameter)
    gc.collect()
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in map(local, gc.get_objects())
        if tensor is not None and tensor.is_floating_point()
    }
    return {
        "gates": {"dtypes": sorted({str(p.dtype) for p in own}), "bytes": sum(p.nbytes for p in own)},
        "frozen": {
            "dtypes": sorted({str(p.dtype) for p in frozen}),
            "bytes": sum(local(p).nbytes for p in frozen),
            "gradients": sum(p.grad is not None or p.requires_grad for p in frozen),
        },
        "everything": sum(storages.values()),
        "moments": sum(t.nbytes for state in actor.optimizer.state.values() for t in state.values()),
    }


def local(thing: Any) -> Any:
    """The tensor that this rank holds, None for what is no tensor."""
    if not isinstance(thing, torch.Tensor):
        return None
    return thing.to_local().detach() if hasattr(thing, "to_local") else thing


def main(out: Path) -> None:
    packed.HEAD_TOKENS = PIECE
    stored = started(GateActor, "bfloat16")
    step(stored)
    seen: dict[str, Any] = {"memory": memory(stored)}

    pieces, whole = started(Watched), started(WholeLogits)
    seen["compute_logp"] = largest_gap(step(pieces), step(whole))
    seen["micro_batches"] = len(pieces.given)
    for index, name in enumerate(("logprobs", "entropy", "smallest", "largest")):
        ones, others = ([given[index] for given in actor.given] for actor in (pieces, whole))
        seen[name] = largest_gap(ones, others)
    seen["gradients"] = gap_of_gradients(pieces, whole)

    recomputing = started(Watched, gradient_checkpointing=True)
    counts = [calls_of_layers(actor) for actor in (pieces, recomputing)]
    write_gates(pieces.model, read_gates(recomputing.model))
    for actor in (pieces, recomputing):
        step(actor)
    seen["layer_calls"] = [calls[0] for calls in counts]
    seen["gradients_recomputed"] = gap_of_gradients(recomputing, pieces)
    seen["head"] = type(whole.model.get_output_embeddings()).__name__
    out.write_text(json.dumps(seen))
    pieces.destroy()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
