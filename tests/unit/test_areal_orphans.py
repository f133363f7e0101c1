"""A worker ends with its controller, and takes what it started along."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

CONTROLLER = """
import subprocess, sys, time
from rlkv_patches.areal.orphans import this_process
subprocess.Popen([sys.executable, "-c", sys.argv[1], this_process(), sys.argv[2]])
time.sleep(120)
"""
WORKER = """
import subprocess, sys, time
from pathlib import Path
from rlkv_patches.areal.orphans import end_with
end_with(sys.argv[1])
end_with("elsewhere:1:0.00")
server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
Path(sys.argv[2]).write_text(f"{__import__('os').getpid()} {server.pid}")
time.sleep(120)
"""


def test_worker_and_its_server_end_when_the_controller_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    controller = subprocess.Popen([sys.executable, "-c", CONTROLLER, WORKER, str(pids)])
    try:
        processes = [psutil.Process(int(pid)) for pid in text_of(pids).split()]
        time.sleep(2.5)  # two looks of the worker at a controller that lives
        assert all(process.is_running() for process in processes)
    finally:
        controller.kill()
        controller.wait()
    gone, alive = psutil.wait_procs(processes, timeout=20)
    for process in alive:
        process.kill()
    assert len(gone) == 2


def text_of(path: Path) -> str:
    end = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < end
        time.sleep(0.1)
    return path.read_text()
