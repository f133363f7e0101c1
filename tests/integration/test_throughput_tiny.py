"""The throughput bench on the tiny reasoner: starts its servers, and goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sglang_server import INSTALLED
from typer.testing import CliRunner

from rlkv.cli.main import app

pytestmark = [
    pytest.mark.full_matrix,
    pytest.mark.skipif(not INSTALLED, reason="sglang is not installed, see third_party/README.md"),
]


def test_equal_memory_equal_concurrency_and_a_shared_prefix(tmp_path: Path) -> None:
    args = [
        "eval",
        "throughput",
        "--model",
        "tiny-reasoner",
        "--heads",
        "tiny-reasoner",
        "--out",
        str(tmp_path),
    ]
    args += ["--requests", "12", "--length-scale", "0.03", "--kv-tokens", "1000", "--bandwidth", "20"]
    args += ["--concurrency", "3", "--prompt-tokens", "60", "--output-tokens", "100"]
    args += ["--chunked-prefill-size", "128", "--cases", "memory,concurrency,prefix"]
    args += ["--sharing", "4", "--shared-tokens", "150", "--own-tokens", "7"]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "throughput.json").read_text())
    memory = result["cases"][0]["caches"]
    dense = memory["0.5"]["dense_token_bytes"] * (memory["full"]["full_tokens"] + 1)
    assert 0 <= dense - memory["0.5"]["pool_bytes"] < 2 * memory["0.5"]["dense_token_bytes"]
    figures = {(row["case"], row["stretch"], row["arm"]): row for row in result["figures"]}
    assert len(figures) == 10
    assert figures["prefix", "end to end", "0.5"]["first_token_ms"] > 0
    assert all(row["measured"] > 0 for row in figures.values() if row["stretch"] == "end to end")
    assert figures["memory", "end to end", "0.5"]["theory_ratio"] > 1
    assert (tmp_path / "throughput.png").stat().st_size > 10_000
    before = (tmp_path / "arms" / "memory-full.json").stat().st_mtime_ns
    assert CliRunner().invoke(app, args).exit_code == 0
    assert (tmp_path / "arms" / "memory-full.json").stat().st_mtime_ns == before
    other = CliRunner().invoke(app, [*args, "--seed", "1"])
    assert other.exit_code == 2
    assert "memory-full.json: was measured with another" in other.output
