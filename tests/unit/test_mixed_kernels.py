"""The kernel of mixed attention against its definition, through Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

import mixed_kernel_cases
import pytest


def test_matches_the_definition() -> None:
    """All cases in one process: importing torch takes longer than they do."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    program = [sys.executable, mixed_kernel_cases.__file__]
    run = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
