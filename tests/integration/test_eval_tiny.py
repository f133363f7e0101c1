"""``rlkv eval`` for real, on the shipped tiny reasoner: figures, invariants, kill and resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rlkv_eval.checkpoint import Checkpoint, locate
from rlkv_eval.config import EvalConfig
from rlkv_eval.engine import Engine
from rlkv_eval.records import Sample, read_journal
from rlkv_eval.runner import evaluate
from transformers import AutoConfig
from typer.testing import CliRunner

from rlkv.cli import main as cli
from rlkv.heads import HeadsFile, ModelShape, Provenance
from rlkv.window import Window

MODEL = "tiny-reasoner"
WINDOW = Window(4, 16)
NUM_PROBLEMS, BATCH_SIZE, SPARSITIES = 10, 5, (0.0, 0.5)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A heads file with gates drawn at random: what is tested here is the harness, not the gates."""
    shape = ModelShape.from_config(AutoConfig.from_pretrained(locate(MODEL)), model_id=MODEL)
    gates = torch.rand(shape.num_layers, shape.num_kv_heads, generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("heads") / "heads.json"
    HeadsFile(
        model=shape,
        gates=tuple(map(tuple, gates.tolist())),
        training_window=WINDOW,
        serving_window=WINDOW,
        recommended_sparsity=0.5,
        provenance=Provenance({}, "none", None, None, {}),
    ).write(path)
    return path


def arguments(out: Path, heads: Path, *more: str) -> list[str]:
    sizes = ["--n", str(NUM_PROBLEMS), "--batch-size", str(BATCH_SIZE), "--random-seeds", "1"]
    which = [
        "--tasks",
        "tiny:easy",
        "--sparsities",
        ",".join(map(str, SPARSITIES)),
        "--heads",
        f"rlkv={heads}",
    ]
    return [
        "eval",
        "run",
        "--out",
        str(out),
        "--device",
        "cpu",
        "--ablation-problems",
        "2",
        *sizes,
        *which,
        *more,
    ]


def rlkv(*options: str) -> str:
    """What the command prints; it must succeed."""
    result = CliRunner(env={"NO_COLOR": "1"}).invoke(cli.app, list(options), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, heads: Path) -> Path:
    """The folder of an uninterrupted run of all methods."""
    out = tmp_path_factory.mktemp("run") / "whole"
    printed = rlkv(*arguments(out, heads))
    assert "full             accuracy" in printed and "KV of full" in printed
    return out


def results(run: Path) -> dict[tuple[str, float, int | None], dict[str, Any]]:
    rows = json.loads((run / "summary.json").read_text())["results"]
    return {(row["method"], row["sparsity"], row["seed"]): row for row in rows}


def answers(run: Path, method: str, sparsity: float, seed: int | None = None) -> list[Sample]:
    return read_journal(run / results(run)[method, sparsity, seed]["file"])[1]


def test_every_method_at_every_sparsity_is_there(run: Path) -> None:
    expected = {("full", 0.0, None), ("all-streaming", 1.0, None)}
    expected |= {(method, sparsity, None) for method in ("rlkv", "ablation") for sparsity in SPARSITIES}
    expected |= {("random", sparsity, 0) for sparsity in SPARSITIES}
    assert results(run).keys() == expected
    assert all(row["finished"] for row in results(run).values())
    assert {"accuracy.png", "heads.png", "heads-ablation.png"} <= {file.name for file in run.iterdir()}


def test_full_solves_and_all_streaming_does_not(run: Path) -> None:
    figures = results(run)
    assert figures["full", 0.0, None]["accuracy"] >= 0.9
    assert figures["all-streaming", 1.0, None]["accuracy"] <= 0.6


def test_sparsity_zero_gives_the_stock_answers(run: Path) -> None:
    full = [sample.text for sample in answers(run, "full", 0.0)]
    for method, seed in (("rlkv", None), ("ablation", None), ("random", 0)):
        assert [sample.text for sample in answers(run, method, 0.0, seed)] == full


def test_kv_bytes_are_those_of_the_tensors(run: Path) -> None:
    config = AutoConfig.from_pretrained(locate(MODEL))
    a_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4  # float32
    for sample in answers(run, "full", 0.0):
        assert sample.kv_bytes == sample.cached_tokens * a_token
    for sample in answers(run, "all-streaming", 1.0):
        assert sample.kv_bytes == WINDOW.size * a_token
    assert 0.5 < results(run)["rlkv", 0.5, None]["kv_share"] < 0.75


def test_a_kill_at_any_moment_changes_nothing(heads: Path, tmp_path: Path) -> None:
    few = ("--methods", "full,rlkv", "--sparsities", "0.5", "--tasks", "tiny:easy,tiny:medium")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    rlkv(*arguments(whole, heads, *few))
    for pattern in ("results/tiny-easy-full-*.jsonl", "results/tiny-easy-rlkv-0.5-*.jsonl"):
        start_and_kill(arguments(killed, heads, *few), killed, pattern)
    with next(killed.glob("results/tiny-easy-rlkv-0.5-*.jsonl")).open("a") as file:
        file.write('{"index": 5, "id": "cut o')  # as a kill within a write leaves it
    finished = {path: path.stat().st_mtime_ns for path in killed.glob("results/tiny-easy-full-*.jsonl")}
    rlkv(*arguments(killed, heads, *few))
    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # answered once
    for path in [*(whole / "results").iterdir(), *(whole / "heads").iterdir(), whole / "summary.json"]:
        assert (killed / path.relative_to(whole)).read_bytes() == path.read_bytes()


def start_and_kill(options: list[str], out: Path, pattern: str) -> None:
    """Kill a run as soon as a file of that pattern holds a batch."""
    command = [sys.executable, "-m", "rlkv", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_lines(out, pattern, at_least=1 + BATCH_SIZE)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def wait_for_lines(out: Path, pattern: str, at_least: int) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if any(path.read_bytes().count(b"\n") >= at_least for path in out.glob(pattern)):
            return
        time.sleep(0.01)
    raise AssertionError(f"{pattern}: not {at_least} lines in time")


def test_report_again_and_run_again_are_the_same(run: Path, heads: Path) -> None:
    before = (run / "summary.json").read_bytes()
    (run / "summary.json").unlink()
    assert "KV of full" in rlkv("eval", "report", str(run))
    assert (run / "summary.json").read_bytes() == before
    written = {path: path.stat().st_mtime_ns for path in (run / "results").iterdir()}
    rlkv(*arguments(run, heads))
    assert {path: path.stat().st_mtime_ns for path in (run / "results").iterdir()} == written


def test_a_changed_window_reuses_nothing_but_full(run: Path, heads: Path) -> None:
    config = EvalConfig(
        out=run,
        tasks=("tiny:easy",),
        n=NUM_PROBLEMS,
        batch_size=BATCH_SIZE,
        methods=("full", "rlkv"),
        sparsities=(0.5,),
        heads={"rlkv": str(heads)},
        window=Window(1000, 1),
        device="cpu",
    )
    full, wide = evaluate(config)
    old = results(run)
    assert full.file == old["full", 0.0, None]["file"]
    assert wide.file != old["rlkv", 0.5, None]["file"]
    assert wide.accuracy == full.accuracy  # a window that holds everything


def test_the_ablation_ranking_is_kept_as_a_heads_file(run: Path) -> None:
    (path,) = (run / "heads").glob("ablation-*.json")
    kept = HeadsFile.read(path)
    assert kept.provenance.recipe["window"] == str(WINDOW) and kept.provenance.recipe["problems"] == 2
    assert sorted(gate for row in kept.gates for gate in row)[::47] == [0.0, 1.0]  # 48 ranks of 48 heads


def test_sampling_is_seeded_by_batch(tmp_path: Path) -> None:
    config = EvalConfig(out=tmp_path, temperature=1.0, batch_size=2, device="cpu")
    engine = Engine(config, Checkpoint(locate(MODEL)))
    problems = ["What is lemon?", "What is moss?", "What is acorn?"]
    whole = [c.token_ids for batch in engine.answer(problems, None, 12) for c in batch]
    resumed = [c.token_ids for batch in engine.answer(problems, None, 12, done=(0, 1)) for c in batch]
    assert whole[2:] == resumed
