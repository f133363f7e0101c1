"""The kernels over the two pools against the window's definition, through Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

import hybrid_sequences
import pytest


@pytest.mark.parametrize("case", hybrid_sequences.CASES)
def test_matches_the_window(case: str) -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    program = [sys.executable, hybrid_sequences.__file__, case]
    run = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
