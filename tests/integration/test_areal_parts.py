"""Parts of the trainer on the real AReaL that need no server: data order, full disk, reward, settings."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from full_disk import disk_with_room_for

if find_spec("areal") is None:
    pytest.skip("AReaL is not installed: make areal", allow_module_level=True)

import torch
from areal.utils.functional import ppo_actor_loss_fn
from omegaconf import OmegaConf
from rlkv_patches.areal import gates_files
from rlkv_patches.areal.devices import check_dtype, memory_flags
from rlkv_patches.areal.experiment import OWNED, experiment
from rlkv_patches.areal.forecast import forecast, step_seconds, trainer_pass
from rlkv_patches.areal.recipe import from_recipe
from rlkv_patches.areal.run import _check_prompts, check, train
from rlkv_patches.areal.settings import ArealConfig
from rlkv_patches.areal.trainer import FromStep, GateTrainer
from rlkv_patches.areal.workflow import GradedWorkflow
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rlkv.attention.gates import attach_gates, read_gates
from rlkv.errors import ConfigError, DataError
from rlkv.heads import HeadsFile
from rlkv.models import MODELS_FOLDER
from rlkv.tiny.problems import TINY_WINDOW
from rlkv.train.folder import COMPLETE_MARK, claim_folder, last_complete_checkpoint
from rlkv.train.forecast import (
    DEVICES,
    DecoderShape,
    Pass,
    gib,
    scoring_work,
    server_bytes,
    sharded_training_bytes,
    training_work,
)
from rlkv.window import Window

MODEL = MODELS_FOLDER / "tiny-reasoner"


class LocalActor:
    """Saves as the actor's first rank does, without the workers between."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(attach_gates(model, TINY_WINDOW))

    def save(self, meta: Any) -> None:
        gates_files.save_folder(self.model, self.optimizer, Path(meta.path))


def trainer_in(out: Path, warnings: list[str]) -> GateTrainer:
    """A trainer with everything that saving touches, and nothing that needs workers."""
    trainer = object.__new__(GateTrainer)
    settings = {"data": "problems", "out": str(out), "save_every": 2, "steps": 5}
    trainer.settings = from_recipe("tiny-reasoner", None, settings)
    trainer.out, trainer.unsaved = out, ""
    trainer.line = SimpleNamespace(warn=warnings.append)
    trainer.model_config = AutoConfig.from_pretrained(MODEL)
    trainer.actor = LocalActor(AutoModelForCausalLM.from_pretrained(MODEL))
    return trainer


def test_full_disk_keeps_the_last_checkpoint_and_later_steps_try_again(tmp_path: Path) -> None:
    warnings: list[str] = []
    trainer = trainer_in(tmp_path, warnings)
    trainer._save_recover_checkpoint(0, 0, 0)  # step 1: not due
    trainer._save_recover_checkpoint(0, 1, 1)  # step 2
    before = (tmp_path / "heads.json").read_text()
    with disk_with_room_for(200):
        trainer._save_recover_checkpoint(0, 3, 3)
    assert len(warnings) == 1
    assert "checkpoint-4: not written, trying again after the next step" in warnings[0]
    assert "File too large" in trainer.unsaved
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert (tmp_path / "heads.json").read_text() == before
    assert not (tmp_path / "checkpoint-4").exists()
    trainer._save_recover_checkpoint(0, 4, 4)
    assert trainer.unsaved == ""
    assert (tmp_path / "checkpoint-5" / COMPLETE_MARK).exists()
    assert HeadsFile.read(tmp_path / "heads.json").provenance.steps == 5


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path, [])
    for step in (2, 4, 6, 10):
        trainer.save(step)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-6"]


def test_gates_of_a_file_come_in_layer_order(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    for layer, gate in enumerate(attach_gates(model, TINY_WINDOW)):
        gate.data.fill_(layer / 10)
    gates_files.save_folder(model, None, tmp_path)
    assert torch.equal(gates_files.read_gates_file(tmp_path / "gates.safetensors"), read_gates(model))


def test_options_that_settings_own_are_all_known_to_areal() -> None:
    built = OmegaConf.structured(experiment_of({}))
    flags = {field.name.replace("_", "-") for field in fields(ArealConfig)}
    for name, option in OWNED.items():
        assert OmegaConf.select(built, name, default="unknown") != "unknown", name
        assert option in flags


def test_rollouts_that_are_behind_weigh_in_the_loss() -> None:
    """AReaL's loss, as the actor calls it, of one token that the newer policy likes twice as much."""
    actor = experiment_of({"max_staleness": 1}).actor
    now, then = torch.tensor([-1.0]), torch.tensor([-1.0 - math.log(2)])
    gradients = []
    for old in (now, then):
        logprobs = now.clone().requires_grad_()
        loss, _ = ppo_actor_loss_fn(
            logprobs=logprobs,
            proximal_logprobs=now,
            old_logprobs=old,
            advantages=torch.ones(1),
            eps_clip=actor.eps_clip,
            loss_mask=torch.ones(1, dtype=torch.bool),
            rejection_sampling=actor.rejection_sampling,
            cu_seqlens=torch.tensor([0, 1]),
        )
        loss.backward()
        gradients.append(logprobs.grad.item())
    assert gradients == pytest.approx([-1.0, -2.0])


def test_a_prompt_that_no_micro_batch_holds_is_refused_before_a_worker_starts() -> None:
    prompt = [{"role": "user", "content": "1 + 2 " * 40}]
    config = from_recipe("tiny-reasoner", None, {"max_new_tokens": 200, "tokens_per_micro_batch": 240})
    _check_prompts(config, str(MODEL), [[{"role": "user", "content": "1 + 2"}]])
    with pytest.raises(ConfigError, match=r"--tokens-per-micro-batch: found 240, expected at least \d+"):
        _check_prompts(config, str(MODEL), [prompt])


def test_a_finished_run_writes_its_results_again_and_starts_nothing(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path, [])
    trainer.save(5)
    (tmp_path / "heads.json").unlink()
    settings = {"data": "no such data", "out": str(tmp_path), "steps": 5, "dtype": "float32"}
    assert train(from_recipe("tiny-reasoner", None, settings)) == tmp_path / "heads.json"
    assert HeadsFile.read(tmp_path / "heads.json").provenance.steps == 5
    with pytest.raises(ConfigError, match="--steps: found 4, expected at least 5"):
        train(from_recipe("tiny-reasoner", None, settings | {"steps": 4}))


def test_a_dry_run_refuses_the_folder_of_other_settings(tmp_path: Path) -> None:
    started = from_recipe("tiny-reasoner", None, {"out": str(tmp_path), "seed": 3})
    claim_folder(tmp_path, started)
    check(started)
    with pytest.raises(DataError, match=r"config\.json: seed is 3, this run has 4"):
        check(replace(started, seed=4))


def test_data_go_on_where_the_checkpoint_ended_and_then_from_the_beginning() -> None:
    order = FromStep(8, 6)
    assert [list(order), list(order)] == [[6, 7], list(range(8))]
    assert len(order) == 8


@pytest.mark.parametrize(("final", "expected"), [("\\boxed{7}", 1.0), ("\\boxed{8}", 0.0)])
def test_reward_is_the_graders(final: str, expected: float) -> None:
    assert reward_of(f"so it is </think> {final}") == expected


def test_a_response_that_was_cut_earns_nothing() -> None:
    assert reward_of("so it is </think> \\boxed{7}. Let me also", stop_reason="length") == 0.0


def test_an_expression_that_never_ends_earns_nothing_in_bounded_time() -> None:
    start = time.monotonic()
    assert reward_of("</think> \\boxed{9^{9^{9^{9}}}}", answer="\\frac{1}{3}") == 0.0
    assert time.monotonic() - start < 60


def test_reward_of_a_model_without_thoughts() -> None:
    assert (reward_of("7"), reward_of("7", thinking=False), reward_of("8", thinking=False)) == (0, 1, 0)


def reward_of(text: str, answer: str = "7", stop_reason: str = "stop", **columns: Any) -> float:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    workflow = GradedWorkflow("unused", experiment_of({}).gconfig, tokenizer)
    workflow.tokenizer = SimpleNamespace(decode=lambda tokens, skip_special_tokens: text)
    response = SimpleNamespace(output_tokens=[1], output_len=1, stop_reason=stop_reason)
    return asyncio.run(workflow._compute_rewards(response, "", {"answer": answer, **columns}))


def experiment_of(changes: dict[str, Any], overrides: tuple[str, ...] = ()) -> Any:
    config = from_recipe("tiny-reasoner", None, changes | {"overrides": overrides})
    return experiment(config, str(MODEL), "float32", 0, "")


def test_settings_reach_areal() -> None:
    built = experiment_of({"clip": 0.3, "max_staleness": 2, "beta": 0.5, "steps": 7, "top_k": 9})
    assert (built.actor.eps_clip, built.actor.gates.beta, built.total_train_steps) == (0.3, 0.5, 7)
    assert built.actor.use_decoupled_loss
    assert built.actor.rejection_sampling.upper == 5.0
    assert experiment_of({}).actor.rejection_sampling is None
    assert (built.rollout.max_head_offpolicyness, built.gconfig.top_k) == (2, 9)
    assert "--rlkv-gates=ones" in built.server_flags


def test_anything_else_in_areals_configuration_can_be_set_and_a_typo_is_refused() -> None:
    assert experiment_of({}, ("actor.mb_spec.n_mbs=2",)).actor.mb_spec.n_mbs == 2
    refused = {
        "actor.nothing=2": "nothing",
        "actor": "expected name=value",
        "actor.backend=fsdp:d2t2": "--set actor.backend=fsdp:d2t2: expected --trainer",
        "gconfig.n_samples=8": "expected --group-size",
        "actor.enable_tree_training=true": "actor.enable_tree_training is True",
    }
    for bad, expected in refused.items():
        with pytest.raises(ConfigError, match=expected):
            experiment_of({}, (bad,))


def test_a_server_leaves_the_trainer_its_memory_where_they_share_a_gpu() -> None:
    shape = DecoderShape.of(AutoConfig.from_pretrained(MODEL))
    one = experiment_of({})
    trainer = sharded_training_bytes(shape, trainer_pass(one), 1)
    (flag,) = memory_flags(one, shape, 1, 4 * trainer)
    assert flag == "--mem-fraction-static=0.60"  # 0.85, less the trainer's quarter
    assert memory_flags(one, shape, 2, 4 * trainer) == []
    assert memory_flags(one, shape, 0, 4 * trainer) == []
    assert memory_flags(experiment_of({"server_flags": (flag,)}), shape, 1, 4 * trainer) == []
    assert memory_flags(experiment_of({"rollout": "sglang:d1t2"}), shape, 2, 4 * trainer) == [flag]
    assert memory_flags(experiment_of({"scheduler": "ray"}), shape, 1, 4 * trainer) == []
    with pytest.raises(ConfigError, match="expected room for a server beside it"):
        memory_flags(one, shape, 1, trainer)


def test_float32_is_refused_where_servers_run_on_gpus() -> None:
    check_dtype("float32", 0)
    check_dtype("bfloat16", 1)
    with pytest.raises(ConfigError, match="dtype is float32, expected bfloat16 on a machine with GPUs"):
        check_dtype("float32", 1)


def test_forecast_follows_the_settings() -> None:
    shape = DecoderShape.of(AutoConfig.from_pretrained(MODEL))
    one = experiment_of({"max_new_tokens": 256, "tokens_per_micro_batch": 1024})
    assert trainer_pass(one) == Pass(4, 256, 4, checkpointing=False)
    device = DEVICES["H200"]
    seconds = step_seconds(one, shape, device)
    window = Window(one.actor.gates.sink_size, one.actor.gates.recent_size)
    assert seconds == pytest.approx(32 * training_work(shape, window, trainer_pass(one)).seconds(device))
    two_stale = experiment_of(
        {"max_new_tokens": 256, "tokens_per_micro_batch": 1024, "trainer": "fsdp:d2", "max_staleness": 1}
    )
    scoring = 32 * scoring_work(shape, window, trainer_pass(one)).seconds(device)
    assert 2 * step_seconds(two_stale, shape, device) == pytest.approx(seconds + scoring)


def test_forecast_is_printed_for_trainer_and_servers() -> None:
    shape = DecoderShape.of(AutoConfig.from_pretrained(MODEL))
    built = experiment_of({"trainer": "fsdp:d2", "rollout": "sglang:d2t2", "gradient_checkpointing": True})
    trainer, times, server = forecast(built, shape, "cpu").splitlines()
    memory = gib(sharded_training_bytes(shape, trainer_pass(built), 2))
    assert trainer == f"forecast: trainer: {memory} GiB on each of 2, in a pass of 68 x 256 tokens"
    assert all(name in times for name in DEVICES)
    weights, held = (gib(nbytes) for nbytes in server_bytes(shape, 64, 256, 4, 2))
    assert server.startswith(
        f"forecast: server: {weights} GiB of weights and {held} GiB of keys and values on each GPU of 2 x 2, "
        "for 64 x 256 tokens"
    )
    assert "H200" in forecast(built, shape, "NVIDIA H200").splitlines()[1]
    assert "A100" not in forecast(built, shape, "NVIDIA H200").splitlines()[1]


def test_checkpointing_is_on_unless_a_recipe_says_otherwise() -> None:
    built = (
        from_recipe(name, None, {}).gradient_checkpointing for name in ("", "llama-8b-r1", "tiny-reasoner")
    )
    assert list(built) == [True, True, False]
