"""The whole loop: real AReaL, real SGLang server in mixed mode, the tiny reasoner, on the CPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import psutil
import pytest
from datasets import Dataset
from rlkv_patches.areal.gates_files import GATES_FILE, OPTIMIZER_FILE
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlkv.heads import HeadsFile
from rlkv.tiny.problems import generate
from rlkv.train.folder import COMPLETE_MARK, last_complete_checkpoint

MISSING = [name for name in ("areal", "sglang") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason="not installed: make areal")

LINE = re.compile(
    r"step (\d+)/(\d+)  reward [01]\.\d{3}  mean gate 0\.\d{3}  staleness (\d(?:\.\d+)?)  "
    r"[\d,]+ tokens/s  \d+:\d\d:\d\d left"
)
PROMPTS, GROUP = 2, 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "train"
    problems = list(islice(generate("easy", "train", seed=0), 16))
    columns = {"prompt": [p.prompt for p in problems], "answer": [p.answer for p in problems]}
    Dataset.from_dict({**columns, "response_length": [70] * 16, "bucket": [0] * 16}).save_to_disk(folder)
    return folder


@contextmanager
def running(
    data: Path, out: Path, steps: int, flag: str = "--max-total-tokens=8192", more: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen]:
    """``rlkv train-areal`` on the tiny reasoner, with everything that it starts gone at the end."""
    settings = {
        "data": data,
        "out": out,
        "steps": steps,
        "save-every": 1,
        "prompts-per-step": PROMPTS,
        "group-size": GROUP,
        "learning-rate": 0.05,
        "max-new-tokens": 112,
        "tokens-per-micro-batch": 2048,
        "server-flags": flag,
    }
    options = [*(f"--{name}={value}" for name, value in settings.items()), *more]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlkv", "train-areal", "tiny-reasoner", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        wait_for(lambda: not workers_of(out), "workers to end")


def workers_of(out: Path) -> list[psutil.Process]:
    """Processes that AReaL started for a run, and the server among their children."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if str(out / "areal") in " ".join(process.info["cmdline"] or []):
            found.extend([process, *process.children(recursive=True)])
    return found


def wait_for(holds: Callable[[], bool], what: str, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.5)


def finished(process: subprocess.Popen) -> tuple[str, str]:
    out, err = process.communicate(timeout=1800)  # a limit for what hangs, not for a busy machine
    assert process.returncode == 0, err[-3000:]
    return out, err


def logged(out: Path, name: str) -> list[float]:
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return [event.value for event in events.Scalars(name)]


@pytest.mark.slow
def test_three_steps_move_the_gates_and_server_and_trainer_agree(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with running(data, out, steps=3) as process:
        printed, lines = finished(process)
    assert printed.strip() == f"wrote {out / 'heads.json'}"
    steps = [match for line in lines.splitlines() if (match := LINE.fullmatch(line.strip()))]
    assert [match[1] for match in steps] == ["1", "2", "3"]
    assert {match[3] for match in steps} == {"0"}
    heads = HeadsFile.read(out / "heads.json")
    assert heads.provenance.steps == 3
    assert heads.provenance.recipe["method"] == "grpo-areal"
    assert all(gate < 0.8 for row in heads.gates for gate in row), "every answer is right, so all are pushed"
    assert (out / "heads.png").stat().st_size > 1000
    gaps = logged(out, "ppo_actor/update/logprob_gap")
    assert len(gaps) == 3
    assert max(gaps) < 1e-3
    assert min(logged(out, "ppo_actor/update/n_valid_tokens")) > PROMPTS * GROUP


@pytest.mark.full_matrix
@pytest.mark.parametrize("behind", [0, 1])
def test_server_killed_then_trainer_killed_then_started_again(
    behind: int, data: Path, tmp_path: Path
) -> None:
    """Also while the rollouts of a step run during the one before."""
    out = tmp_path / "run"
    more = (f"--max-staleness={behind}",)

    def done(step: int) -> bool:
        return (out / f"checkpoint-{step}" / COMPLETE_MARK).exists()

    with running(data, out, steps=6, more=more) as process:
        wait_for(lambda: done(1) or process.poll() is not None, "the first checkpoint")
        server = next(p for p in workers_of(out) if "sglang.launch_server" in p.cmdline())
        server.kill()
        wait_for(lambda: done(3) or process.poll() is not None, "training to go on with a new server")
        assert "starting it anew" in (out / "areal.log").read_text()
        process.kill()
        wait_for(lambda: not workers_of(out), "workers to end with their controller", 60)
    last = last_complete_checkpoint(out)
    assert last is not None
    step = int(last.name.removeprefix("checkpoint-"))
    assert 3 <= step < 6
    assert HeadsFile.read(out / "heads.json").provenance.steps in (step - 1, step)

    with running(data, out, steps=6, more=more) as process:
        lines = finished(process)[1].splitlines()
    assert [m[1] for line in lines if (m := LINE.fullmatch(line.strip()))] == [
        str(s) for s in range(step + 1, 7)
    ]
    assert HeadsFile.read(out / "heads.json").provenance.steps == 6
    assert max(logged(out, "ppo_actor/update/logprob_gap")) < 1e-3
    versions_behind = logged(out, "ppo_actor/update/version_stats/sample_staleness_theta_max")
    assert (max(versions_behind) > 0) == (behind > 0)


@pytest.mark.full_matrix
def test_full_disk_at_a_checkpoint_is_a_warning_and_a_later_step_saves(data: Path, tmp_path: Path) -> None:
    """The training worker, while it runs, may write files that hold the gates but not their moments."""
    out = tmp_path / "run"
    with running(data, out, steps=12) as process:
        first = out / "checkpoint-1"
        wait_for(lambda: (first / COMPLETE_MARK).exists() or process.poll() is not None, "a checkpoint")
        [worker] = {p for p in workers_of(out) if is_training_worker(p)}
        moments = (first / OPTIMIZER_FILE).stat().st_size
        _, hard = worker.rlimit(psutil.RLIMIT_FSIZE)
        worker.rlimit(psutil.RLIMIT_FSIZE, (moments - 1, hard))
        assert process.stderr is not None
        warning = next(line for line in process.stderr if "not written" in line)
        worker.rlimit(psutil.RLIMIT_FSIZE, (hard, hard))
        printed, _ = finished(process)
    assert "trying again after the next step" in warning
    assert "File too large" in warning
    failed = int(warning.split("checkpoint-")[1].split(":")[0])
    assert 1 < failed < 12
    assert printed.strip() == f"wrote {out / 'heads.json'}"
    assert HeadsFile.read(out / "heads.json").provenance.steps == 12


@pytest.mark.full_matrix
def test_full_disk_at_a_gate_update_ends_the_run_and_the_next_start_goes_on(
    data: Path, tmp_path: Path
) -> None:
    """The training worker may write no file as large as the gates: the servers cannot get them."""
    out = tmp_path / "run"
    with running(data, out, steps=8) as process:
        first = out / "checkpoint-1"
        wait_for(lambda: (first / COMPLETE_MARK).exists() or process.poll() is not None, "a checkpoint")
        [worker] = {p for p in workers_of(out) if is_training_worker(p)}
        _, hard = worker.rlimit(psutil.RLIMIT_FSIZE)
        worker.rlimit(psutil.RLIMIT_FSIZE, ((first / GATES_FILE).stat().st_size - 1, hard))
        began = time.monotonic()
        _, err = process.communicate(timeout=600)
        assert time.monotonic() - began < 100, "AReaL's servers wait 120 s for an update"
        assert process.returncode == 2
        assert not workers_of(out)
    line = next(line for line in err.splitlines() if line.startswith("error: "))
    assert f"{out}: the run ended: " in line
    assert "File too large" in line
    assert "the same command goes on from the last checkpoint" in line
    last = last_complete_checkpoint(out)
    assert last is not None
    step = int(last.name.removeprefix("checkpoint-"))
    assert HeadsFile.read(out / "heads.json").provenance.steps == step
    with running(data, out, steps=step + 1) as process:
        lines = finished(process)[1].splitlines()
    assert [m[1] for line in lines if (m := LINE.fullmatch(line.strip()))] == [str(step + 1)]


def is_training_worker(process: psutil.Process) -> bool:
    command = process.cmdline()
    return "areal.infra.rpc.rpc_server" in command and "actor" in command


@pytest.mark.full_matrix
def test_gradients_that_stay_nan_end_the_run_and_change_no_gate(data: Path, tmp_path: Path) -> None:
    """Logits divided by next to nothing overflow."""
    out = tmp_path / "run"
    with running(data, out, steps=6, more=("--temperature=1e-39",)) as process:
        _, err = process.communicate(timeout=1800)
        assert process.returncode == 2
        assert not workers_of(out)
    line = next(line for line in err.splitlines() if line.startswith("error: "))
    assert "the gradient of the gates is nan for 4 steps in a row" in line
    assert "the same command goes on from the last checkpoint" in line
    heads = HeadsFile.read(out / "heads.json")
    assert heads.provenance.steps == 3
    assert all(gate == pytest.approx(0.8) for row in heads.gates for gate in row)


@pytest.mark.full_matrix
def test_server_that_does_not_start_ends_the_run_in_one_line(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with running(data, out, steps=3, flag="--page-size=7x") as process:
        _, err = process.communicate(timeout=600)
        assert process.returncode == 2
        assert not workers_of(out)
    line = next(line for line in err.splitlines() if line.startswith("error: "))
    assert f"{out}: the run did not start: " in line
    assert "the rollout server ended with status 2 before it answered" in line
