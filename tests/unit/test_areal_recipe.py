"""Recipes of asynchronous training: what they set, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from rlkv_patches.areal.cli import app
from rlkv_patches.areal.recipe import from_recipe, recipes
from rlkv_patches.areal.settings import AREAL_PRESETS, ArealConfig
from typer.testing import CliRunner

from rlkv.errors import ConfigError
from rlkv.train.config import Advantage, RewardScope, from_preset
from rlkv.window import Window

PAPER = {  # model: (β, τ, top-p)
    "llama-8b-r1": (1e-3, 0.5, 1.0),
    "qwen-7b-r1": (1e-3, 0.55, 1.0),
    "qwen3-4b-thinking": (2.5e-3, 0.5, 0.95),
}


@pytest.mark.parametrize("name", sorted(PAPER))
def test_paper_preset_is_the_papers(name: str) -> None:
    config = from_recipe(name, None, {})
    assert (config.beta, config.reward_threshold, config.top_p) == PAPER[name]
    assert (config.advantage, config.reward_scope) == (Advantage.GROUP, RewardScope.GROUP)
    assert (config.steps, config.prompts_per_step, config.group_size) == (185, 32, 4)
    assert (config.learning_rate, config.weight_decay, config.max_staleness) == (0.01, 0.0, 0)
    assert (config.train_window, config.serving_window) == (Window(128, 256), Window(16, 64))


@pytest.mark.parametrize("name", sorted(PAPER))
def test_code_preset_is_the_authors(name: str) -> None:
    config = from_recipe(name, "code", {})
    assert (config.advantage, config.reward_scope) == (Advantage.BATCH, RewardScope.MICRO_BATCH)
    assert (config.clip, config.reward_scale, config.reward_bias) == (0.4, 10.0, -0.5)
    assert (config.weight_decay, config.max_staleness) == (0.017, 2)
    sampling = (config.temperature, config.top_k, config.max_new_tokens)
    assert sampling == ((0.6, 20, 7168) if name == "qwen3-4b-thinking" else (1.0, 0, 8192))


def test_every_shipped_recipe_is_tested_here() -> None:
    assert recipes() == sorted([*PAPER, "tiny-reasoner"])


def test_tiny_recipe_has_the_settings_of_the_in_process_trainer() -> None:
    areal, in_process = from_recipe("tiny-reasoner", None, {}), from_preset("tiny")
    for name, value in in_process.identity().items():
        if name not in ("method", "micro_batch_size"):
            assert areal.identity()[name] == value, name


def test_changes_win_over_the_recipe_and_the_recipe_over_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("preset: code\nsettings: {clip: 0.3, train_window: 8+16, steps: 7}\n")
    config = from_recipe(str(path), None, {"steps": 9, "prompts_per_step": 5})
    assert (config.clip, config.train_window, config.steps) == (0.3, Window(8, 16), 9)
    assert config.reward_scale == AREAL_PRESETS["code"]["reward_scale"]
    assert config.responses_per_step == config.micro_batch_size == 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("settings: {clip: soft}", "clip is 'soft', expected float"),
        ("settings: {learning: 1}", "unknown setting 'learning'"),
        ("settings: {reward_scope: all}", "reward_scope: 'all' is not a valid RewardScope"),
        ("settings: {rollout: vllm:d1}", "rollout is 'vllm:d1', expected sglang:dN"),
        ("settings: {trainer: fsdp:d2t2}", "trainer is 'fsdp:d2t2', expected fsdp:dN"),
        ("settings: {tokens_per_micro_batch: 8192}", "more than max_new_tokens = 8192"),
        ("settings: {trainer: 'fsdp:d3'}", "prompts_per_step is 32, expected a multiple of 3"),
        ("settings: {report_to: [trackio]}", "expected some of tensorboard, wandb"),
        ("presets: {fast: {}}", "presets: found 'fast', expected some of"),
        ("model: x", "expected preset, settings and presets"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_bad_recipe_is_refused_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        from_recipe(str(path), None, {})
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_names_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="gpt: no such recipe, expected a YAML file or one of llama-8b-r1"):
        from_recipe("gpt", None, {})


def test_where_it_runs_does_not_make_another_run_of_it() -> None:
    one, other = ArealConfig(), ArealConfig(rollout="sglang:d4", trainer="fsdp:d8", scheduler="ray")
    assert one.identity() == other.identity()
    assert one.identity() != ArealConfig(max_staleness=1).identity()


def test_server_flags_and_overrides_come_after_those_of_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "settings: {server_flags: [--context-length=10240], overrides: [actor.mb_spec.n_mbs=2]}\n"
    )
    changes = {"server_flags": ("--page-size=16",), "overrides": ("actor.c_clip=3.0",)}
    config = from_recipe(str(path), None, changes)
    assert config.server_flags == ("--context-length=10240", "--page-size=16")
    assert config.overrides == ("actor.mb_spec.n_mbs=2", "actor.c_clip=3.0")


def test_what_changes_gates_counts_towards_the_identity() -> None:
    assert "overrides" not in from_recipe("llama-8b-r1", None, {}).identity()
    set_one = from_recipe("llama-8b-r1", None, {"overrides": ("actor.c_clip=3.0",)})
    assert set_one.identity()["overrides"] == ("actor.c_clip=3.0",)
    assert "tokens_per_micro_batch" not in from_recipe("llama-8b-r1", None, {}).identity()
    assert from_recipe("llama-8b-r1", "code", {}).identity()["tokens_per_micro_batch"] == 17408


def test_a_dry_run_without_areal_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlkv_patches.areal.run.NEEDED", ("areal_of_nobody",))
    result = CliRunner().invoke(app, ["tiny-reasoner", "--dry-run"])
    assert isinstance(result.exception, ConfigError)
    assert "found no areal_of_nobody, expected it: see docs/training.md" in str(result.exception)
