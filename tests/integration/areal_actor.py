"""One rank of a real AReaL actor on the CPU: takes two steps, then what must not change anything.

Started by test_areal_actor.py, once for each rank, with torch's distributed variables set; the first rank
writes what it saw as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from areal.api import FinetuneSpec, SaveLoadMeta
from rlkv_patches.areal.actor import GateActor
from rlkv_patches.areal.experiment import experiment
from rlkv_patches.areal.recipe import from_recipe
from transformers import AutoModelForCausalLM

from rlkv.attention.gates import attach_gates, read_gates, write_gates
from rlkv.errors import TrainingError
from rlkv.models import MODELS_FOLDER

MODEL = str(MODELS_FOLDER / "tiny-reasoner")
LENGTHS = ((40, 23, 31), (17, 50, 12), (33, 21, 64))
REWARDS = ((1.0, 1.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 1.0))
PROMPT = 5
OWNERS = (0, 1, 1)
"""Rank of each group when there are two: one has more than the other."""


def group(index: int) -> dict[str, torch.Tensor]:
    """What a rollout gives for one prompt: right-padded rows."""
    lengths = LENGTHS[index]
    generator = torch.Generator().manual_seed(index)
    longest = max(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, 700, (len(lengths), longest), generator=generator) * mask
    response = mask & (torch.arange(longest) >= PROMPT)
    return {
        "input_ids": ids.int(),
        "attention_mask": mask,
        "loss_mask": response.int(),
        "versions": torch.where(response, 0, -1).int(),
        "logprobs": torch.zeros(len(lengths), longest),
        "rewards": torch.tensor(REWARDS[index]),
    }


def single_logprobs(groups: list[dict[str, torch.Tensor]], gates: torch.Tensor, window: Any) -> list[Any]:
    """Log-probabilities of each sequence alone, from transformers and our attention."""
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    attach_gates(model, window)
    write_gates(model, gates)
    rows = []
    for own in groups:
        for ids, mask in zip(own["input_ids"], own["attention_mask"], strict=True):
            sequence = ids[mask].long()[None]
            with torch.no_grad():
                logits = model(sequence).logits[0, :-1].log_softmax(-1)
            rows.append(logits.gather(1, sequence[0, 1:, None])[:, 0])
    return rows


def main(out: Path, scope: str) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    small = {"max_new_tokens": 64, "tokens_per_micro_batch": 65}
    changes = {"reward_scope": scope, **small} if scope else {}
    config = from_recipe(
        "tiny-reasoner",
        None,
        {
            "out": str(out.parent),
            "group_size": 3,
            "prompts_per_step": 6,
            "trainer": f"fsdp:d{world}",
            **changes,
        },
    )
    actor = GateActor(experiment(config, MODEL, "float32", 0, "").actor)
    actor.create_process_group()
    actor.initialize(None, FinetuneSpec(1, 3, 3))
    torch.manual_seed(7)
    write_gates(actor.model, torch.rand_like(read_gates(actor.model)))
    own = [group(index) for index in range(3) if world == 1 or OWNERS[index] == rank]
    seen: dict[str, Any] = {"before": read_gates(actor.model).tolist()}

    packed = [row for rows in actor.compute_logp(own) for row in rows]
    alone = single_logprobs(own, read_gates(actor.model), config.train_window)
    seen["packed_gap"] = max(float((a[: len(b)] - b).abs().max()) for a, b in zip(packed, alone, strict=True))
    for step in range(2):
        batch = [dict(item) for item in own]
        for item, logprobs in zip(batch, actor.compute_logp(batch), strict=True):
            item["logprobs"] = torch.roll(logprobs, 1, -1) * item["loss_mask"]
        actor.set_version(0)
        actor.ppo_update(actor.compute_advantages(batch))
        seen[f"penalty{step}"] = actor._penalty
        seen[f"weights{step}"] = [float(weight) for weight in actor._weights]
        seen[f"server_gap{step}"] = max(actor._gaps)
        seen[f"gates{step}"] = read_gates(actor.model).tolist()

    folder = SaveLoadMeta(str(out.parent / f"saved{world}"), "dcp", True, None, None, None)
    actor.save(folder)
    moments = [state["exp_avg"].clone() for state in actor.optimizer.state.values()]
    write_gates(actor.model, torch.ones_like(read_gates(actor.model)))
    actor.optimizer.state.clear()
    actor.load(folder)
    seen["loaded"] = read_gates(actor.model).tolist()
    seen["moments_equal"] = all(
        torch.equal(a, actor.optimizer.state[gate]["exp_avg"])
        for a, gate in zip(moments, actor.gates, strict=True)
    )

    bad = [{**item, "rewards": torch.full_like(item["rewards"], torch.nan)} for item in own]
    seen["ended"] = ""
    for _ in range(actor.spec.max_bad_steps + 1):
        try:
            actor.ppo_update(actor.compute_advantages([dict(item) for item in bad]))
        except TrainingError as error:
            seen["ended"] = str(error)
        seen.setdefault("after_nan", read_gates(actor.model).tolist())
    if rank == 0:
        out.write_text(json.dumps(seen))
    dist.barrier()
    actor.destroy()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
