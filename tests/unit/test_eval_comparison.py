"""A comparison's steps: those that no mask can do are left out, and a server makes room for a ranking."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from rlkv_eval.answer import Answer
from rlkv_eval.checkpoint import Checkpoint, locate
from rlkv_eval.cli import app
from rlkv_eval.config import EvalConfig
from rlkv_eval.methods import Step
from rlkv_eval.progress import Silent
from rlkv_eval.runner import Comparison, evaluate
from transformers import AutoModelForCausalLM, PreTrainedModel
from typer.testing import CliRunner

from rlkv.errors import ConfigError
from rlkv.generation import CacheRecipe
from rlkv.window import Window

MODEL = "tiny-reasoner"
SMALL = {"tasks": ("tiny:easy",), "n": 10, "max_new_tokens": 8, "device": "cpu"}


def config(out: Path, **changed: object) -> EvalConfig:
    return EvalConfig(out=out, **(SMALL | changed))  # type: ignore[arg-type]


def test_a_budget_that_a_method_cannot_keep_is_left_out_with_a_warning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--methods", "full,rlkv,random,r-kv", "--budgets", "0.5,0.05", "--random-seeds", "2"]
    options += ["--tasks", "tiny:easy", "--n", "10", "--max-new-tokens", "8", "--device", "cpu"]
    for _ in range(2):  # and again when the run is resumed
        result = CliRunner().invoke(app, ["run", "--out", str(tmp_path), *options], catch_exceptions=False)
        assert result.exit_code == 0
        warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
        assert [line.split(" at budget ")[0] for line in warnings] == ["warning: rlkv", "warning: random"]
        for line in warnings:
            assert " at budget 0.05 is left out: budget is 0.05, expected at least 0.3" in line
    report = (tmp_path / "report.md").read_text()
    for row in ("| rlkv | 0.5 |", "| random | 0.5 |", "| r-kv | 0.5 |", "| r-kv | 0.05 |"):
        assert row in report
    assert "| rlkv | 0.05 |" not in report


def test_where_no_budget_can_be_kept_the_error_stays(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"budget is 0\.1, expected at least 0\.3"):
        evaluate(config(tmp_path, methods=("full", "rlkv"), budgets=(0.1, 0.05)))


def test_a_model_without_a_chat_template_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    base = tmp_path / "base"
    copytree(locate(MODEL), base, ignore=lambda _, names: [n for n in names if n.endswith(".safetensors")])
    (base / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match=r"base: its tokenizer has no chat template, expected a chat"):
        Comparison(config(tmp_path, model=str(base), methods=("full",)), Silent())


class Server:
    """Stands for SGLang: it holds the device from its first answer until it is closed."""

    unit = 1

    def __init__(self) -> None:
        self.holds_device = True

    def settings(self) -> dict[str, Any]:
        return {}

    def answer(
        self, problems: Sequence[str], recipe: CacheRecipe | None, max_new_tokens: int, done: Collection[int]
    ) -> Iterator[list[Answer]]:
        raise NotImplementedError

    def close(self) -> None:
        self.holds_device = False


@pytest.mark.parametrize("method", ["kvzip-heads", "ablation"])
def test_a_ranking_has_the_device_alone_and_leaves_it_empty(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"methods": ("full", method), "window": Window(4, 4), "max_new_tokens": 112, "ablation_problems": 2}
    comparison = Comparison(config(tmp_path, **how), Silent())
    comparison.engine = server = Server()
    loaded: list[tuple[bool, weakref.ref[PreTrainedModel]]] = []
    load = Checkpoint.load

    def watched(self: Checkpoint, loader: Any, **options: Any) -> Any:
        found = load(self, loader, **options)
        if loader is AutoModelForCausalLM:
            loaded.append((server.holds_device, weakref.ref(found)))
        return found

    monkeypatch.setattr(Checkpoint, "load", watched)
    assert comparison.split(Step(method, 0.5)) is not None
    ((beside_server, model),) = loaded
    assert not beside_server and model() is None
