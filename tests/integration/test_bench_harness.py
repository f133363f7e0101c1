"""The bench of what the harness adds runs against a real server, and accounts for every answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rlkv_eval.config import MIN_PROBLEMS
from sglang_server import INSTALLED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.full_matrix,
    pytest.mark.skipif(not INSTALLED, reason="needs SGLang: make sglang"),
]

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_harness.py"


def test_both_arms_answer_everything(tmp_path: Path) -> None:
    options = ["--n", str(MIN_PROBLEMS), "--concurrency", "4", "--max-total-tokens", "8192"]
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "harness.json").read_text())
    assert [arm["name"] for arm in result["arms"]] == ["bare", "harness", "harness", "bare"]
    for arm in result["arms"]:
        assert arm["requests_s"] > 0 and arm["client_cpu_s"] > 0 and arm["server_cpu_s"] > 0
        assert (arm["start_s"] > 0 and arm["report_s"] > 0) == (arm["name"] == "harness")
    for name in result["adds"]:
        assert f"server's own time: {name}" in " ".join(done.stdout.split())
    for run in ("harness-0", "harness-1"):
        (journal,) = (tmp_path / run / "results").iterdir()
        assert len(journal.read_text().splitlines()) == 1 + MIN_PROBLEMS
        assert (tmp_path / run / "report.html").exists()
