"""Starts the ranks of a script that runs a real AReaL engine on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rlkv_eval.throughput.launch import free_port


def run_ranks(script: Path, ranks: int, *arguments: str) -> None:
    """Run a script once for each rank, with torch's distributed variables set; all must succeed."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(ranks),
        "LOCAL_RANK": "0",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env={**environment, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    logs = [process.communicate(timeout=300)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(log[-3000:] for log in logs)
