"""A started server ends with the command that started it, whatever ends that; real processes throughout."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rlkv_eval.throughput.launch import split_flags
from typer.testing import CliRunner

from rlkv.cli.main import app
from rlkv.errors import ConfigError

SERVER = """
import os, signal, subprocess, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
part = subprocess.Popen([sys.executable, "-m", "rlkv.tethered", str(os.getpid()), "/bin/sleep", "90"])
Path(os.environ["PIDS"]).write_text(f"{os.getpid()} {part.pid}")
time.sleep(90)
"""
"""Stands in for SGLang, whose own processes watch their parent too; it never gets ready."""


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 128 + 15), (signal.SIGHUP, 128 + 1), (signal.SIGKILL, -9)],
    ids=lambda value: str(getattr(value, "name", "")),
)
def test_a_killed_command_leaves_no_server(number: signal.Signals, status: int, tmp_path: Path) -> None:
    command, server = started(tmp_path)
    command.send_signal(number)
    assert command.wait(30) == status
    end = time.monotonic() + 10
    while left := [pid for pid in server if alive(pid)]:
        assert time.monotonic() < end, left
        time.sleep(0.05)


def test_an_ignored_hangup_stays_ignored(tmp_path: Path) -> None:
    command, _ = started(tmp_path, "nohup")
    command.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert command.poll() is None
    command.terminate()
    assert command.wait(30) == 128 + 15


def started(folder: Path, *before: str) -> tuple[subprocess.Popen[bytes], list[int]]:
    """``rlkv eval throughput`` that waits for its server, and the server's processes."""
    (folder / "sglang").mkdir()
    (folder / "sglang/__init__.py").touch()
    (folder / "sglang/launch_server.py").write_text(SERVER)
    pids = folder / "pids"
    which = ["--model", "tiny-reasoner", "--heads", "tiny-reasoner", "--out", str(folder / "run")]
    command = subprocess.Popen(
        [*before, sys.executable, "-m", "rlkv", "eval", "throughput", *which],
        env={**os.environ, "PYTHONPATH": str(folder), "PIDS": str(pids)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 120
    while not pids.exists() or not pids.read_text():
        assert command.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    return command, [int(pid) for pid in pids.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_command_is_not_started_for_a_parent_that_is_gone() -> None:
    command = [sys.executable, "-m", "rlkv.tethered", "1", "/bin/echo", "here"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


def test_flags_that_cannot_be_read() -> None:
    assert split_flags("--tp 2 --name 'a b'") == ["--tp", "2", "--name", "a b"]
    with pytest.raises(
        ConfigError, match=r"server_flags: found '\"--tp 2' \(No closing quotation\), expected"
    ):
        split_flags('"--tp 2')


@pytest.mark.parametrize(
    "command", [["run", "--serve"], ["throughput", "--model", "tiny-reasoner", "--heads", "tiny-reasoner"]]
)
def test_such_flags_are_one_line(command: list[str], tmp_path: Path) -> None:
    flags = ["--server-flags", '"--tp 2', "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["eval", *command, *flags])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: server_flags: found") and result.stderr.count("\n") == 1


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (file := tmp_path / "file").touch()
    which = ["--model", "tiny-reasoner", "--heads", "tiny-reasoner", "--out", str(file)]
    result = CliRunner().invoke(app, ["eval", "throughput", *which])
    assert result.exit_code == 2, result.output
    assert result.stderr == f"error: {file}: cannot make the run folder: Not a directory\n"
