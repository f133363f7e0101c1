"""``rlkv data --endpoint`` against a real SGLang server: the same data as in process, also after a stop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from sglang_server import INSTALLED, Server
from typer.testing import CliRunner

from rlkv.cli.data import app
from rlkv.data import load_training_data
from rlkv.tiny.problems import generate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED, reason="sglang is not installed, see third_party/README.md"),
]

PROBLEMS = 20
MODEL = "tiny-reasoner"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(["--max-total-tokens", "8192"], tmp_path_factory.mktemp("sglang"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A local file of easy problems, the last one with a wrong answer; buckets that all of them fill."""
    source = tmp_path_factory.mktemp("source") / "problems.jsonl"
    easy = list(islice(generate("easy", "train", 7), PROBLEMS))
    rows = [{"problem": p.prompt, "answer": p.answer} for p in easy]
    rows[-1]["answer"] = str((int(rows[-1]["answer"]) + 1) % 10)
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [MODEL, "--source", str(source), "--instruction", "", "--buckets", "40:0-70,40:70-128"]


def rows(folder: Path) -> list[dict]:
    return list(load_training_data(str(folder)))


def test_same_data_as_in_process_and_nothing_twice_after_a_kill(
    server: Server, options: list[str], tmp_path: Path
) -> None:
    expected, found = tmp_path / "expected", tmp_path / "found"
    done = CliRunner().invoke(app, [*options, "--out", str(expected)], catch_exceptions=False)
    assert done.exit_code == 0

    url = server.url
    words = [sys.executable, "-m", "rlkv", "data", *options, "--endpoint", url, "--out", str(found)]
    process = subprocess.Popen(
        [*words, "--in-flight", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    journal = found / "journal.jsonl"
    end = time.monotonic() + 300
    while not (journal.exists() and journal.read_text().count("\n") > 3) and process.poll() is None:
        assert time.monotonic() < end, "no attempt came"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = journal.read_text()
    before = before[: before.rindex("\n") + 1]
    finished = subprocess.run([*words, "--in-flight", "8"], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert f"asked {PROBLEMS}, solved {PROBLEMS - 1} " in finished.stdout
    assert journal.read_text().startswith(before)
    numbers = [json.loads(line)["problem"] for line in journal.read_text().splitlines()[1:]]
    assert sorted(numbers) == list(range(PROBLEMS))
    assert rows(found) == rows(expected)
    assert "19 problems that a model solved itself" in (found / "README.md").read_text()


def test_a_model_that_is_not_served_is_refused_in_one_line(
    server: Server, options: list[str], tmp_path: Path
) -> None:
    url = server.url
    words = ["other/model", *options[1:], "--endpoint", url, "--out", str(tmp_path / "none")]
    done = subprocess.run(
        [sys.executable, "-m", "rlkv", "data", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"error: {url}: serves ") and ", expected other/model" in done.stderr
    assert not (tmp_path / "none").exists()
