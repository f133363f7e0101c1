"""A result's identity changes with every setting that changes the result, and with nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rlkv_eval.checkpoint import Checkpoint
from rlkv_eval.config import EvalConfig
from rlkv_eval.engine import Engine
from rlkv_eval.identity import digest, identity, json_values, model_digest, settings, task_settings
from rlkv_eval.rivals.recipe import droppers

from rlkv.errors import ConfigError
from rlkv.generation import HeadSplit
from rlkv.window import Window

MASK = torch.tensor([[True, False], [False, True]])
ENGINE = {"name": "transformers"}
HEADS = HeadSplit(MASK, Window(4, 16))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", "weights")


def write_model(folder: Path, weights: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(weights)
    return folder


def hash_of(folder: Path, heads: HeadSplit | None = HEADS, **changed: Any) -> str:
    config = replace(EvalConfig(out=Path("run"), n=20), **changed)
    shared, task = settings(config, folder, ENGINE), task_settings(config, config.parts[0])
    return digest(identity(shared, task, heads))


@pytest.mark.parametrize(
    "changed",
    [
        {"tasks": ("tiny:hard",)},
        {"split": "validation"},
        {"seed": 1},
        {"n": 21},
        {"temperature": 0.6},
        {"temperature": 0.6, "samples": 2},
        {"thinking": False},
        {"top_p": 0.95},
        {"max_new_tokens": 100},
        {"heads": HeadSplit(~MASK, Window(4, 16))},
        {"heads": HeadSplit(MASK, Window(4, 17))},
        {"heads": HeadSplit(MASK, Window(5, 15))},
        {"heads": None},
    ],
    ids=str,
)
def test_every_setting_changes_it(model: Path, changed: dict[str, Any]) -> None:
    assert hash_of(model, **changed) != hash_of(model)


@pytest.mark.parametrize(
    "changed",
    [
        {"out": Path("elsewhere")},
        {"model": "the same files under another name"},
        {"methods": ("full",)},
        {"sparsities": (0.1,)},
        {"random_seeds": 9},
        {"tasks": ("tiny:medium",)},  # the default, named
    ],
    ids=str,
)
def test_nothing_else_does(model: Path, changed: dict[str, Any]) -> None:
    assert hash_of(model, **changed) == hash_of(model)


def test_the_engine_changes_it(model: Path) -> None:
    config = EvalConfig(out=Path("run"))
    assert settings(config, model, {"device": "cpu"}) != settings(config, model, {"device": "cuda"})


@pytest.mark.parametrize("changed", [{"dtype": "bfloat16"}, {"batch_size": 64}], ids=str)
def test_settings_of_the_engine_in_process(
    model: Path, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EvalConfig(out=Path("run"), device="cpu")
    plain = Engine(config, Checkpoint(model)).settings()
    assert Engine(replace(config, **changed), Checkpoint(model)).settings() != plain
    monkeypatch.setattr("rlkv_eval.engine.package_versions", lambda *names: {"torch": "9"})
    assert Engine(config, Checkpoint(model)).settings() != plain


def test_model_digest_follows_the_files(tmp_path: Path) -> None:
    first, other = write_model(tmp_path / "a", "weights"), write_model(tmp_path / "b", "other weights")
    same = write_model(tmp_path / "c", "weights")
    (same / "heads.json").write_text("{}")
    (same / "README.md").write_text("a model card")
    assert model_digest(first) == model_digest(same) != model_digest(other)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        model_digest(tmp_path / "empty")


def test_options_are_those_of_the_method_as_a_file_gives_them_back() -> None:
    found = droppers(["kvzip.sinks=2", "r-kv.window=16"])["kvzip"]
    assert json_values(found) == {"window": 0, "interval": 1, "sinks": 2, "request": []}


def test_the_mask_is_readable(model: Path) -> None:
    shared = settings(EvalConfig(out=Path("run")), model, ENGINE)
    task = {"task": "tiny"}
    assert identity(shared, task, HEADS)["heads"] == ["sF", "Fs"]
    assert identity(shared, task, None) == {"settings": shared, "task": task, "cache": "full"}
