"""Settings of gate training: presets, refusals, and what makes two runs the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from rlkv.cli.main import app
from rlkv.errors import ConfigError
from rlkv.train.config import PRESETS, Advantage, RewardScope, TrainConfig, from_preset
from rlkv.window import Window


def test_defaults_are_the_papers() -> None:
    config = from_preset("paper")
    assert config == TrainConfig()
    assert (config.train_window, config.serving_window) == (Window(128, 256), Window(16, 64))
    assert (config.learning_rate, config.beta, config.reward_threshold) == (0.01, 1e-3, 0.5)
    assert (config.prompts_per_step, config.group_size, config.steps) == (32, 4, 185)
    assert (config.reward_scope, config.advantage) == (RewardScope.GROUP, Advantage.GROUP)


def test_the_codes_preset_differs_where_the_code_does() -> None:
    config = from_preset("code", steps=7)
    assert (config.weight_decay, config.clip, config.steps) == (0.017, 0.4, 7)
    assert (config.reward_scale, config.reward_bias) == (10.0, -0.5)
    assert (config.reward_scope, config.advantage) == (RewardScope.MICRO_BATCH, Advantage.BATCH)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid(name: str) -> None:
    from_preset(name)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("steps", 0, "at least 1"),
        ("group_size", 1, "at least 2"),
        ("init_gate", 1.5, r"within \[0, 1\]"),
        ("learning_rate", 0.0, "above 0"),
        ("beta", -1.0, "at least 0"),
        ("beta", float("nan"), "at least 0"),
        ("temperature", 0.0, "above 0"),
        ("recommended_sparsity", 1.5, r"within \[0, 1\]"),
        ("micro_batch_size", 24, r"a divisor of prompts_per_step \* group_size = 128"),
        ("max_new_tokens", 0, "at least 1"),
        ("save_every", 0, "at least 1"),
        ("dtype", "int8", "auto, float32 or bfloat16"),
    ],
)
def test_a_setting_out_of_range_is_refused_in_one_line(field: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"^training: {field} is .*, expected {expected}"):
        replace(TrainConfig(), **{field: value})


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="preset is 'best', expected one of paper, code"):
        from_preset("best")
    with pytest.raises(ConfigError, match="unknown setting 'betta'"):
        from_preset("paper", betta=1)


def test_identity_ignores_where_and_how_long_but_nothing_else() -> None:
    config = TrainConfig()
    same = replace(config, out="elsewhere", save_every=1, steps=9, report_to=())
    assert same.identity() == config.identity()
    assert replace(config, seed=1).identity() != config.identity()
    assert replace(config, train_window=Window(4, 8)).identity() != config.identity()


def test_command_line_shows_the_configs_defaults_and_refuses_in_one_line() -> None:
    shown = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output
    assert "128+256" in shown
    assert "Strength of the penalty." in shown
    refused = CliRunner().invoke(app, ["train", "--data", "x", "--steps", "0"])
    assert refused.exit_code == 2
    assert refused.stderr == "error: training: steps is 0, expected at least 1\n"
