"""Distillation on the shipped model with DeepSpeed: gates move, a kill is survived, processes share work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlkv.heads import HeadsFile
from rlkv.train.folder import COMPLETE_MARK

pytest.importorskip("deepspeed")
STEPS = 3
SETTINGS = {
    "--method": "duo",
    "--preset": "tiny",
    "--level": "easy",
    "--init-gate": "0.6",
    "--steps": str(STEPS),
    "--contexts-per-step": "2",
    "--contexts-per-pass": "1",
    "--save-every": "1",
}


def command(out: Path, *launcher: str) -> list[str]:
    options = [word for pair in SETTINGS.items() for word in pair]
    return [sys.executable, *launcher, "-m", "rlkv", "train", *options, "--out", str(out)]


def run(words: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = run(command(out))
    assert done.returncode == 0, done.stderr
    assert f"step {STEPS}/{STEPS}  distillation " in done.stderr
    assert done.stdout.splitlines()[-1] == f"wrote {out}/heads.json"
    return out


def gates(out: Path) -> list[list[float]]:
    return json.loads((out / "heads.json").read_text())["gates"]


@pytest.mark.slow
def test_run_moves_gates_within_bounds_and_writes_what_it_promises(uninterrupted: Path) -> None:
    heads = HeadsFile.read(uninterrupted / "heads.json")
    flat = [gate for row in heads.gates for gate in row]
    assert all(0 <= gate <= 1 for gate in flat)
    assert len(set(flat)) > len(flat) // 2, "distillation moves every gate by its own amount"
    assert heads.provenance.steps == STEPS
    assert heads.provenance.recipe["method"] == "duo"
    assert "deepspeed" in heads.provenance.packages
    assert logged(uninterrupted) >= {"train/distillation", "train/gate/mean", "train/gate/sparsity_at_0.5"}
    stored = sum(f.stat().st_size for f in (uninterrupted / f"checkpoint-{STEPS}/deepspeed").iterdir())
    assert stored < 100_000, "the frozen model is not part of a checkpoint"


def logged(out: Path) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "runs"))
    events.Reload()
    return set(events.Tags()["scalars"])


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_gates(uninterrupted: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    end = time.monotonic() + 300
    while not (tmp_path / "checkpoint-1" / COMPLETE_MARK).exists() and process.poll() is None:
        assert time.monotonic() < end, "no checkpoint came"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # A checkpoint that the kill cut short looks like this one, and must be passed over.
    (tmp_path / "checkpoint-2").mkdir(exist_ok=True)
    (tmp_path / "checkpoint-2" / COMPLETE_MARK).unlink(missing_ok=True)
    done = run(command(tmp_path))
    assert done.returncode == 0, done.stderr
    assert gates(tmp_path) == gates(uninterrupted)


def test_a_folder_of_other_settings_is_refused_and_kept(uninterrupted: Path) -> None:
    before = (uninterrupted / "heads.json").read_bytes()
    done = run([*command(uninterrupted), "--sparsity-weight", "0.5"])
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: {uninterrupted}/config.json: sparsity_weight is 0.15, this run has 0.5: "
        "continue with the folder's settings or choose another folder"
    ]
    assert (uninterrupted / "heads.json").read_bytes() == before


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()
    done = run([*command(tmp_path / "out"), "--model", str(tmp_path / "hollow")])
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"error: {tmp_path}/hollow: cannot be loaded: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.full_matrix
def test_two_processes_give_the_gates_of_one(uninterrupted: Path, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run(command(tmp_path, *launcher))
    assert done.returncode == 0, done.stderr
    for row, expected in zip(gates(tmp_path), gates(uninterrupted), strict=True):
        assert row == pytest.approx(expected, abs=1e-4)
