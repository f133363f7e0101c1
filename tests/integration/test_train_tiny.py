"""Gate training on the shipped model: repeatable, resumable after a kill, and never mixed up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlkv.attention.gates import attach_gates
from rlkv.data import load_training_data
from rlkv.data.dataset import conversations
from rlkv.errors import RLKVError
from rlkv.heads import HeadsFile
from rlkv.models import MODELS_FOLDER
from rlkv.tiny.problems import generate
from rlkv.train.config import from_preset
from rlkv.train.folder import COMPLETE_MARK
from rlkv.train.grpo import GateTrainer, grpo_arguments

STEPS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight short problems in the format of ``rlkv data``."""
    folder = tmp_path_factory.mktemp("data")
    problems = list(islice(generate("easy", "train", 0), 8))
    rows = [{"prompt": p.prompt, "answer": p.answer, "response_length": 76, "bucket": 0} for p in problems]
    Dataset.from_list(rows).save_to_disk(str(folder))
    return folder


def command(data: Path, out: Path, *more: str) -> list[str]:
    """Half-open gates, so that some responses fail and the reward speaks from the first step on."""
    settings = {
        "--preset": "demo",
        "--data": str(data),
        "--out": str(out),
        "--steps": str(STEPS),
        "--prompts-per-step": "2",
        "--micro-batch-size": "8",
        "--init-gate": "0.4",
        "--save-every": "1",
    }
    options = [word for pair in settings.items() for word in pair]
    return [sys.executable, "-m", "rlkv", "train", *options, *more]


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(list(words), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = run(*command(data, out))
    assert done.returncode == 0, done.stderr
    return out


def gates(out: Path) -> list[list[float]]:
    return json.loads((out / "heads.json").read_text())["gates"]


@pytest.mark.slow
def test_run_moves_gates_within_bounds_and_writes_what_it_promises(uninterrupted: Path) -> None:
    heads = HeadsFile.read(uninterrupted / "heads.json")
    flat = [gate for row in heads.gates for gate in row]
    assert all(0 <= gate <= 1 for gate in flat)
    assert len(set(flat)) > len(flat) // 2, "the reward moves every gate by its own amount"
    assert heads.provenance.steps == STEPS
    assert heads.provenance.recipe["train_window"] == {"sink_size": 4, "recent_size": 28}
    stored = {f.name for f in (uninterrupted / f"checkpoint-{STEPS}").iterdir()}
    assert {"gates.safetensors", "optimizer.pt", COMPLETE_MARK} <= stored
    assert "model.safetensors" not in stored
    assert logged(uninterrupted, "train/gate/mean")[-1] == pytest.approx(sum(flat) / len(flat), rel=1e-5)
    assert logged_names(uninterrupted) >= {
        "train/reward",
        "train/gate/mean",
        "train/gate/sparsity_at_0.5",
        "train/completions/mean_length",
        "train/penalty_weight",
    }


def logged_names(out: Path) -> set[str]:
    return set(_events(out).Tags()["scalars"])


def logged(out: Path, name: str) -> list[float]:
    return [event.value for event in _events(out).Scalars(name)]


def _events(out: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(out.glob("runs/*"))))
    events.Reload()
    return events


@pytest.mark.slow
def test_same_seed_gives_the_same_gates(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    done = run(*command(data, tmp_path))
    assert done.returncode == 0, done.stderr
    assert gates(tmp_path) == gates(uninterrupted)


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_gates(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(data, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_for(lambda: (tmp_path / "checkpoint-2" / COMPLETE_MARK).exists() or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # A checkpoint that the kill cut short looks like this one, and must be passed over.
    (tmp_path / "checkpoint-3").mkdir(exist_ok=True)
    (tmp_path / "checkpoint-3" / COMPLETE_MARK).unlink(missing_ok=True)
    done = run(*command(data, tmp_path))
    assert done.returncode == 0, done.stderr
    assert gates(tmp_path) == gates(uninterrupted)


def wait_for(condition: Callable[[], bool], limit_s: float = 300.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "no checkpoint came"
        time.sleep(0.05)


@pytest.mark.slow
def test_started_again_a_finished_run_trains_no_further(
    data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(uninterrupted, out)
    again = run(*command(data, out))
    assert (again.returncode, gates(out)) == (0, gates(uninterrupted))
    assert not (out / f"checkpoint-{STEPS + 1}").exists()
    longer = run(*command(data, out, "--steps", str(STEPS + 2), "--save-every", "2"))
    assert longer.returncode == 0, longer.stderr
    kept = sorted(path.name for path in out.glob("checkpoint-*"))
    assert kept == [f"checkpoint-{STEPS}", f"checkpoint-{STEPS + 2}"]
    fewer = run(*command(data, out))
    assert fewer.returncode == 2
    assert f"--steps: found {STEPS}, expected at least {STEPS + 2}" in fewer.stderr
    assert HeadsFile.read(out / "heads.json").provenance.steps == STEPS + 2


def test_a_response_that_was_cut_earns_nothing(data: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS_FOLDER / "tiny-reasoner", padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(MODELS_FOLDER / "tiny-reasoner")
    config = from_preset("demo", data=str(data), out=str(tmp_path))
    attach_gates(model, config.train_window)
    arguments = grpo_arguments(config, tmp_path, use_cpu=True)
    dataset = conversations(load_training_data(str(data)), "prompt")
    trainer = GateTrainer(model, tokenizer, config, arguments, dataset)
    responses = [[5, tokenizer.eos_token_id], [5, 6], []]
    rewards = trainer._calculate_rewards([{"answer": "7"}] * 3, ["?"] * 3, ["</think> 7"] * 3, responses)
    assert rewards[:, 0].tolist() == [1.0, 0.0, 0.0]


def test_a_folder_of_other_settings_is_refused_and_kept(data: Path, uninterrupted: Path) -> None:
    before = (uninterrupted / "heads.json").read_bytes()
    done = run(*command(data, uninterrupted, "--beta", "0.5"))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: {uninterrupted}/config.json: beta is 0.01, this run has 0.5: "
        "continue with the folder's settings or choose another folder"
    ]
    assert (uninterrupted / "heads.json").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("--model", "./no-such-model"), "error: ./no-such-model: no such model folder"),
        (("--data", "./no-such-data"), "error: ./no-such-data: "),
        (
            ("--out", "/dev/null/x"),
            "error: /dev/null/x: cannot be made: /dev/null is a file",
        ),
        (("--seed", "-1"), "error: training: seed is -1, expected at least 0 and below 2^32"),
    ],
)
def test_missing_inputs_end_in_one_line(data: Path, tmp_path: Path, more: tuple[str, str], line: str) -> None:
    done = run(*command(data, tmp_path / "out", *more))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(line)
    assert RLKVError.__name__ not in done.stderr


def test_several_processes_are_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = run(*command(data, tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: found 2 processes, expected one process on one GPU")


def test_a_start_that_fails_leaves_the_folder_to_other_settings(data: Path, tmp_path: Path) -> None:
    empty, out = tmp_path / "empty", tmp_path / "out"
    empty.mkdir()
    for beta in ("0.5", "0.1"):
        done = run(*command(data, out, "--model", str(empty), "--beta", beta))
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {empty}: cannot be loaded: ")
        assert not out.exists()


def test_rewards_of_nothing_are_pointed_out(data: Path, tmp_path: Path) -> None:
    """Responses of four tokens cannot end with an answer."""
    done = run(*command(data, tmp_path / "out", "--max-new-tokens", "4", "--steps", "3"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: no response of the first 3 steps was right") == 1
