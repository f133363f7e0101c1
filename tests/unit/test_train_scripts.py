"""What the training scripts make of their options, before work begins that takes hours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from rlkv.cli.train import app

SCRIPTS = Path(__file__).parents[2] / "scripts"
MODELS = {
    "llama-8b-r1": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    "qwen-7b-r1": "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
    "qwen3-4b-thinking": "Qwen/Qwen3-4B-Thinking-2507",
}
STAND_IN = """#!{python} -IS
import json, pathlib, sys
words = sys.argv[1:]
with open("{calls}", "a") as file:
    print(json.dumps(words), file=file)
if "--prest" in words:
    sys.exit(print("No such option: --prest", file=sys.stderr) or 2)
print("said by", *words)
if words[0] == "data":
    out = pathlib.Path(words[-1])
    out.mkdir(parents=True)
    (out / "state.json").touch()
"""
"""Of ``rlkv``: notes its words, refuses one option, and makes a data set that is empty."""


class Outcome(NamedTuple):
    """What ``rlkv`` was called with, and what the script said in the end."""

    calls: list[list[str]]
    status: int
    out: str
    err: str


class Workplace:
    """A folder in which scripts run, with stand-ins first on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._calls = folder / "calls"
        self.add_command("rlkv", STAND_IN.format(python=sys.executable, calls=self._calls))
        self.add_command("nvidia-smi", "#!/bin/sh\nexit 1\n")

    def add_command(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def run(self, name: str, *words: str, scripts: Path = SCRIPTS, **settings: str) -> Outcome:
        self._calls.write_text("")
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            [scripts / f"train_{name}.sh", *words],
            cwd=self.folder,
            env={"PATH": path, **settings},
            capture_output=True,
            text=True,
            check=False,
        )
        calls = [json.loads(line) for line in self._calls.read_text().splitlines()]
        return Outcome(calls, done.returncode, done.stdout, done.stderr)


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


@pytest.mark.parametrize("recipe", MODELS)
def test_options_are_checked_and_data_are_made_once(recipe: str, place: Workplace) -> None:
    out = f"runs/{recipe}"
    train = ["train-areal", recipe, "--data", f"{out}/data", "--out", out, "--steps", "3"]
    source = ["--source", "agentica-org/DeepScaleR-Preview-Dataset"]
    data = ["data", MODELS[recipe], *source, "--out", f"{out}/data"]
    first, again = (place.run(recipe, "--steps", "3") for _ in range(2))
    assert first.calls == [[*train, "--dry-run"], data, train]
    assert again.calls == [[*train, "--dry-run"], train]
    assert "--dry-run" not in first.out and not first.err and first.status == again.status == 0


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["folder", "--steps", "3", "--help"]])
def test_help_is_the_trainers(words: list[str], place: Workplace) -> None:
    for recipe in MODELS:
        found = place.run(recipe, *words, DATA="none")
        assert found.calls == [["train-areal", recipe, "--help"]] and found.status == 0
    assert place.run("tiny-reasoner-gates", *words).calls == [["train", "--preset", "tiny", "--help"]]


@pytest.mark.parametrize("name", [*MODELS, "tiny-reasoner-gates"])
@pytest.mark.parametrize("engine", ["areal", "in-process"])
def test_a_typo_ends_before_data_are_made(name: str, engine: str, place: Workplace) -> None:
    found = place.run(name, "folder", "--prest", "code", ENGINE=engine)
    assert (len(found.calls), found.status, found.out) == (1, 2, "")
    assert found.err == "No such option: --prest\n"


@pytest.mark.parametrize(
    ("words", "settings"),
    [(["--data", "my data.jsonl"], {}), (["--data=my data.jsonl"], {}), ([], {"DATA": "my data.jsonl"})],
)
def test_given_data_are_taken(words: list[str], settings: dict[str, str], place: Workplace) -> None:
    (place.folder / "my data.jsonl").touch()
    found = place.run("llama-8b-r1", "my runs/a", *words, **settings)
    train = ["train-areal", "llama-8b-r1", "--data", "my data.jsonl", "--out", "my runs/a", *words]
    assert found.calls == [[*train, "--dry-run"], train] and found.status == 0


@pytest.mark.parametrize(("words", "settings"), [([], {"DATA": "no data"}), (["--data", "no data"], {})])
def test_data_that_are_not_there_end_in_one_line(
    words: list[str], settings: dict[str, str], place: Workplace
) -> None:
    found = place.run("qwen-7b-r1", *words, **settings)
    assert (found.calls, found.status) == ([], 2)
    assert found.err == "error: no data: no such file or folder, expected training data of rlkv data\n"


def test_a_dry_run_is_shown_and_needs_no_data(place: Workplace) -> None:
    found = place.run("qwen3-4b-thinking", "--dry-run", "--steps", "3", DATA="none")
    words = "train-areal qwen3-4b-thinking --data none --out runs/qwen3-4b-thinking --dry-run --steps 3"
    assert found == ([words.split()], 0, f"said by {words}\n", "")


@pytest.mark.parametrize("words", [["--out", "my runs"], ["--out=my runs"], ["my runs"]])
def test_data_go_below_the_folder_of_the_run(words: list[str], place: Workplace) -> None:
    found = place.run("llama-8b-r1", *words)
    assert [call[0] for call in found.calls] == ["train-areal", "data", "train-areal"]
    assert found.calls[1][-2:] == ["--out", "my runs/data"]
    assert found.calls[2][:6] == ["train-areal", "llama-8b-r1", "--data", "my runs/data", "--out", "my runs"]


def test_scripts_may_lie_in_a_folder_with_a_space(place: Workplace) -> None:
    link = place.folder / "my scripts"
    link.symlink_to(SCRIPTS)
    for name in (*MODELS, "tiny-reasoner-gates"):
        assert len(place.run(name, scripts=link).calls) == 3


def test_the_tiny_reasoner_in_this_process(place: Workplace) -> None:
    train = ["train", "--preset", "tiny", "--data", "my run/data", "--out", "my run", "--steps", "3"]
    found = place.run("tiny-reasoner-gates", "my run", "--steps", "3")
    assert [found.calls[0], found.calls[2]] == [[*train, "--dry-run"], train]
    assert found.calls[1][:2] == ["data", "tiny-reasoner"] and found.calls[1][-2:] == ["--out", "my run/data"]
    [call] = place.run("tiny-reasoner-gates", "--dry-run").calls
    assert call[-3:] == ["--out", "runs/tiny-reasoner-gates", "--dry-run"]


def test_the_tiny_reasoner_on_areal(place: Workplace) -> None:
    train = ["train-areal", "tiny-reasoner", "--data", "a/data", "--out", "a", "--steps", "3"]
    found = place.run("tiny-reasoner-gates", "a", "--steps", "3", ENGINE="areal")
    assert [found.calls[0], found.calls[2]] == [[*train, "--dry-run"], train]
    place.add_command("nvidia-smi", "#!/bin/sh\n")
    *_, on_a_gpu = place.run("tiny-reasoner-gates", "a", "--steps", "3", ENGINE="areal").calls
    assert on_a_gpu == [*train[:2], "--dtype", "bfloat16", *train[2:]]


def test_an_unknown_engine_is_refused(place: Workplace) -> None:
    found = place.run("tiny-reasoner-gates", ENGINE="ray")
    assert (found.calls, found.status) == ([], 2)
    assert found.err == "error: ENGINE is 'ray', expected in-process or areal\n"


@pytest.mark.parametrize(
    "words", [["--preset", "demo"], ["--method", "duo", "--preset", "tiny"]], ids=" ".join
)
def test_a_dry_run_checks_and_makes_nothing(words: list[str], tmp_path: Path) -> None:
    """What the check of the tiny reasoner's script rests on."""
    out = tmp_path / "run"
    result = CliRunner().invoke(app, [*words, "--out", str(out), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert ("GiB in a training pass" in result.output) == ("duo" not in words)
    assert not out.exists()
    bad = CliRunner().invoke(app, [*words, "--out", str(out), "--dry-run", "--learning-rate", "0"])
    assert bad.exit_code != 0
