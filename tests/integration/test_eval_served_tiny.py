"""``rlkv eval`` over a real server: the answers of the model in process, whatever kills it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rlkv_eval.checkpoint import Checkpoint, locate
from rlkv_eval.config import EvalConfig
from rlkv_eval.engine import Engine
from rlkv_eval.methods import Step
from rlkv_eval.progress import Silent
from rlkv_eval.records import Sample, read_journal
from rlkv_eval.runner import Comparison, evaluate
from rlkv_eval.served.engine import OwnServer
from rlkv_eval.throughput.client import server_info
from sglang_server import INSTALLED
from typer.testing import CliRunner

from rlkv.cli import main as cli
from rlkv.errors import ConfigError
from rlkv.generation import HeadSplit

pytestmark = pytest.mark.skipif(not INSTALLED, reason="needs SGLang: make sglang")

MODEL = "tiny-reasoner"
SPARSITY = 0.6
N = 15
SMALL = "--max-total-tokens 8192 --max-running-requests 8"


def config(out: Path, **changed: object) -> EvalConfig:
    settings = {
        "tasks": ("tiny:easy",),
        "n": N,
        "methods": ("rlkv",),
        "sparsities": (SPARSITY,),
        "device": "cpu",
        "batch_size": N,
        "concurrency": 6,
    }
    return EvalConfig(out=out, **{**settings, **changed})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def split() -> HeadSplit:
    """The heads that stream, as the comparison reads them from the shipped heads file."""
    found = Comparison(config(Path("unused")), Silent()).split(Step("rlkv", SPARSITY))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """What ``--serve`` uses; its server starts with the first question."""
    out = tmp_path_factory.mktemp("own")
    server = OwnServer(config(out, serve=True, server_flags=SMALL), Checkpoint(locate(MODEL)), out / "log")
    yield server
    server.close()


@pytest.fixture(scope="module")
def url(own: OwnServer, split: HeadSplit) -> str:
    """A running server with that cache, as ``--endpoint`` names it."""
    return own.start(split).url


def test_same_greedy_tokens_as_in_process(own: OwnServer, split: HeadSplit) -> None:
    settings = config(Path("unused"))
    (part,) = settings.parts
    prompts = [example.prompt for example in part.task.examples(part.level, "test", 0, N)]
    limit = settings.token_limit(part)
    here = next(Engine(settings, own.checkpoint).answer(prompts, split, limit, ()))
    there = [answer for some in own.answer(prompts, split, limit, ()) for answer in some]
    there.sort(key=lambda answer: answer.index)
    for one, other in zip(here, there, strict=True):
        assert one.token_ids == other.token_ids
        assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
        assert (one.index, one.prompt_length) == (other.index, other.prompt_length)


@pytest.fixture(scope="module")
def served(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an uninterrupted served run, with its report."""
    out = tmp_path_factory.mktemp("served") / "whole"
    rlkv(*options(url), "--out", str(out))
    return out


def options(url: str) -> list[str]:
    which = ["--tasks", "tiny:easy", "--n", str(N), "--methods", "rlkv", "--sparsities", str(SPARSITY)]
    return ["eval", "run", *which, "--endpoint", url, "--concurrency", "6"]


def rlkv(*arguments: str) -> None:
    result = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_same_verdicts_as_in_process(served: Path, tmp_path: Path) -> None:
    evaluate(config(tmp_path))
    pairs = list(zip(samples(tmp_path), samples(served), strict=True))
    assert len(pairs) == N
    for one, other in pairs:
        assert one == other


def test_kv_bytes_follow_from_the_servers_layout(url: str, served: Path, split: HeadSplit) -> None:
    info = server_info(url)["internal_states"][0]["rlkv"]
    for sample in samples(served):
        assert sample.cached_tokens == sample.prompt_length + sample.length - 1
        window = min(sample.cached_tokens, split.window.size)
        full, streaming = info["full_token_bytes"], info["window_token_bytes"]
        assert sample.kv_bytes == sample.cached_tokens * full + window * streaming


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sparsities": (0.5,)}, "heads stream at sparsity 0.604167 of"),
        ({"methods": ("full",)}, "cache is hybrid at sparsity 0.604167, expected full"),
        ({"dtype": "bfloat16"}, "dtype is float32, expected bfloat16"),
    ],
    ids=["sparsity", "full", "dtype"],
)
def test_another_configuration_is_refused_before_the_first_request(
    url: str, tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=r"^server: ") as caught:
        evaluate(config(tmp_path, endpoint=url, **changed))
    assert message in str(caught.value)
    assert all(read_journal(path)[1] == [] for path in tmp_path.glob("results/*"))


def test_a_kill_at_any_moment_changes_no_byte_of_the_report(url: str, served: Path, tmp_path: Path) -> None:
    killed = [*options(url), "--out", str(tmp_path)]
    kill_after(N // 3, killed, tmp_path)
    before = answered(tmp_path)
    assert N // 3 <= len(before) < N
    with journal(tmp_path).open("a") as file:
        file.write('{"index": 5, "id": "cut o')  # as a kill within a write leaves it
    rlkv(*killed)
    assert answered(tmp_path)[: len(before)] == before  # none lost, none asked again
    for path in served.iterdir():
        if path.is_file():
            assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def samples(run: Path) -> list[Sample]:
    return read_journal(journal(run))[1]


def journal(run: Path) -> Path:
    (path,) = (run / "results").iterdir()
    return path


def answered(run: Path) -> list[bytes]:
    """Whole lines of the journal after its header."""
    return journal(run).read_bytes().split(b"\n")[1:-1]


def kill_after(answers: int, arguments: list[str], out: Path) -> None:
    command = [sys.executable, "-m", "rlkv", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not ((out / "results").is_dir() and any(out.glob("results/*")) and len(answered(out)) >= answers):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
