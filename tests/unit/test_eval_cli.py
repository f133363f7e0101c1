"""``rlkv eval``: what it refuses, each with one line, before it reads any weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from rlkv_eval.cli import app
from rlkv_eval.config import EvalConfig
from transformers import Qwen3Config
from typer.testing import CliRunner

from rlkv.errors import RLKVError
from rlkv.heads import HeadsFile, ModelShape, Provenance
from rlkv.window import Window


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with a model of 3 layers x 2 KV heads that has no weights, and two heads files."""
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "model", num_layers=3)
    write_heads(tmp_path / "own.json", num_layers=3, window=Window(4, 16))
    write_heads(tmp_path / "wide.json", num_layers=3, window=Window(4, 32))
    write_heads(tmp_path / "deeper.json", num_layers=4, window=Window(4, 16))
    (tmp_path / "a-file").write_text("")
    return tmp_path


def write_config(folder: Path, num_layers: int) -> None:
    shape = {"num_key_value_heads": 2, "num_attention_heads": 4, "head_dim": 16, "hidden_size": 64}
    Qwen3Config(num_hidden_layers=num_layers, **shape).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")


def write_heads(path: Path, num_layers: int, window: Window) -> None:
    HeadsFile(
        model=ModelShape("model", None, "qwen3", num_layers, 2, 4, 16),
        gates=((0.5, 1.0),) * num_layers,
        training_window=window,
        serving_window=window,
        recommended_sparsity=0.5,
        provenance=Provenance({}, "none", None, None, {}),
    ).write(path)


def refusal(*arguments: str) -> str:
    """The message with which the command ends; ``rlkv`` prints it as its one line."""
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, RLKVError), result.output
    message = str(result.exception)
    assert "\n" not in message
    return message


MODEL = ("--model", "model")
RLKV = (*MODEL, "--methods", "rlkv")
DROPPERS = (*MODEL, "--methods", "full,r-kv", "--budgets", "0.5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--methods", "full,best"),
            "method is 'best', expected one of full, rlkv, random, ablation, all-stream",
        ),
        (("--methods", ","), "methods: none given"),
        (("--methods", "full,full"), "methods: full given twice"),
        (("--tasks", "chess"), "task is 'chess', expected one of"),
        (("--tasks", "tiny:gigantic"), "level is 'gigantic', expected one of easy, medium, hard, expert"),
        (("--tasks", "tiny,tiny:medium"), "tasks: tiny:medium given twice"),
        (("--tasks", ","), "tasks: none given"),
        (("--samples", "4"), "samples is 4 at temperature 0, expected a temperature above 0"),
        (("--samples", "0"), "samples is 0, expected at least 1"),
        (("--serve", "--endpoint", "http://here"), "serve: given with an endpoint, expected one of them"),
        (("--server-flags", "--page-size 16"), "server_flags: given without serve, expected both"),
        (("--endpoint", "here:30000"), "endpoint: found 'here:30000', expected http://HOST:PORT"),
        (
            ("--sparsities", "0.5", "--budgets", "0.5"),
            "sparsities: given with budgets, which stand in their place",
        ),
        (("--concurrency", "0"), "concurrency is 0, expected at least 1"),
        (("--config", "none.yaml"), "none.yaml: cannot read: No such file or directory"),
        (("--config", "a-file"), "a-file: found NoneType, expected a mapping"),
        (("--split", "train"), "split is 'train', expected one of test, validation"),
        (("--sparsities", "0.5,1.5"), "sparsity is 1.5, expected a number in [0, 1]"),
        (("--sparsities", "-0.1"), "sparsity is -0.1, expected a number in [0, 1]"),
        (("--sparsities", "nan"), "sparsity is nan, expected a number in [0, 1]"),
        (
            ("--sparsities", "half"),
            "sparsities: found 'half', expected numbers in [0, 1] separated by commas",
        ),
        (("--sparsities", ","), "sparsities: none given"),
        (("--sparsities", "0.5,.5"), "sparsities: 0.5 given twice"),
        (("--budgets", "0.5,1.5"), "budget is 1.5, expected a number in (0, 1]"),
        (("--budgets", "half"), "budgets: found 'half', expected numbers in [0, 1] separated by commas"),
        (("--budgets", "0.5", "--methods", "rlkv"), "budgets: full is not among the methods, expected it"),
        (("--budget-schedule", "slow"), "budget_schedule is 'slow', expected one of growing, fixed"),
        (("--methods", "full,h2o"), "method h2o: drops tokens to a budget, expected --budgets"),
        ((*DROPPERS, "--serve"), "method r-kv: runs in process only, expected no server"),
        ((*DROPPERS, "--method-options", "window=8"), "found 'window=8', expected METHOD.NAME=NUMBER"),
        ((*DROPPERS, "--method-options", "rkv.window=8"), "method is 'rkv', expected one of h2o, snapkv,"),
        ((*DROPPERS, "--method-options", "r-kv.width=8"), "r-kv has window, interval, importance, kernel"),
        ((*DROPPERS, "--method-options", "r-kv.window=x"), "r-kv.window is 'x', expected a number"),
        ((*DROPPERS, "--method-options", "r-kv.window=-1"), "r-kv.window is -1, expected at least 1"),
        (("--n", "9"), "n is 9, expected at least 10"),
        (("--batch-size", "0"), "batch_size is 0, expected at least 1"),
        (("--random-seeds", "0"), "random_seeds is 0, expected at least 1"),
        (("--max-new-tokens", "0"), "max_new_tokens is 0, expected at least 1"),
        (("--temperature", "-1"), "temperature is -1.0, expected a number of at least 0"),
        (("--top-p", "0"), "top_p is 0.0, expected a number in (0, 1]"),
        (("--dtype", "int4"), "dtype is 'int4', expected one of float32, bfloat16, float16"),
        (("--device", "tpu"), "device is 'tpu', expected one of auto, cpu, cuda"),
        (("--window", "16"), "window: found '16', expected SINK+RECENT"),
        (("--heads", "own.json"), "heads: found 'own.json', expected NAME=FILE"),
        (("--heads", "a=own.json", "--heads", "a=wide.json"), "heads: a is given twice"),
        (("--heads", "full=own.json"), "heads: 'full' is a built-in method, expected another name"),
        (("--heads", "a/b=own.json"), "heads: name is 'a/b', expected letters, digits, - and _"),
        (("--model", "./nowhere"), "./nowhere: no such model folder"),
        ((*MODEL, "--heads", "rlkv=none.json"), "none.json: no such file"),
        ((*MODEL, "--heads", "rlkv=a-file"), "a-file: is not JSON"),
        ((*MODEL, "--heads", "rlkv=deeper.json"), "deeper.json: model.num_layers is 4, expected 3"),
        (RLKV, "model: comes with no heads.json, expected --heads rlkv=FILE"),
        (
            (*MODEL, "--methods", "full,random"),
            "window: no heads file gives one, expected --window SINK+RECENT",
        ),
        (
            (*RLKV, "--heads", "rlkv=own.json", "--heads", "other=wide.json"),
            "window: heads files recommend 4+16 and 4+32, expected --window SINK+RECENT",
        ),
        ((*RLKV, "--heads", "rlkv=own.json", "--out", "a-file"), "a-file: cannot make the run folder"),
        ((*MODEL, "--methods", "full"), "model: cannot load the model"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_refusals(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    out = () if "--out" in arguments else ("--out", "run")
    assert message in refusal("run", *out, *arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "run.json: cannot read: No such file or directory"), ("{}", "run.json: is damaged")],
)
def test_report_refuses_what_is_no_run(folder: Path, content: str | None, message: str) -> None:
    (folder / "run").mkdir()
    if content is not None:
        (folder / "run" / "run.json").write_text(content)
    assert message in refusal("report", "run")


def test_report_refuses_a_published_model_without_a_table() -> None:
    message = "published_model: given without a table, expected --published TSV"
    assert refusal("report", "run", "--published-model", "A") == message


def test_cuda_is_refused_where_there_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    expected = "device is 'cuda', expected cpu: torch finds no CUDA device"
    assert expected in refusal("run", "--out", "run", *MODEL, "--methods", "full", "--device", "cuda")


def test_a_model_that_solves_nothing_cannot_be_ranked(folder: Path) -> None:
    from small_models import small_model

    from rlkv.tiny.tokenizer import build_tokenizer

    tokenizer = build_tokenizer(problems_per_level=20)
    small_model(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id).save_pretrained(
        folder / "random"
    )
    tokenizer.save_pretrained(folder / "random")
    options = (
        "--methods",
        "ablation",
        "--tasks",
        "tiny:easy",
        "--window",
        "4+16",
        "--ablation-problems",
        "2",
    )
    message = refusal("run", "--out", "run", "--model", "random", *options, "--max-new-tokens", "3")
    assert "ablation: random solves 0 of 2 validation problems of tiny:easy" in message


def test_the_command_reads_its_defaults_from_the_config() -> None:
    result = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, ["run", "--help"])
    for name in ("model", "split", "samples", "random_seeds", "dtype", "device", "batch_size"):
        assert f"[default: ({getattr(EvalConfig, name)})]" in result.output
    assert "[default: (0.3,0.4,0.5,0.6,0.7,0.8)]" in result.output
