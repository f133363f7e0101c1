"""Published benchmarks: read from shipped samples and from a copy in the hub's layout, and graded."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rlkv_eval.tasks
from rlkv_eval.tasks import get_task, task_names
from rlkv_eval.tasks.table import SAMPLES, TableTask

from rlkv.data.source import import_datasets
from rlkv.errors import ConfigError, DataError

SHIPPED = Path(rlkv_eval.tasks.__file__).parent / SAMPLES
NAMES = ("aime24", "gsm8k", "longreason", "math_500", "mbpp", "mmlu_pro")

HUB_FILES = {
    "gsm8k": "{config}/{split}-00000-of-00001.parquet",
    "mbpp": "{config}/{split}-00000-of-00001.parquet",
}
"""Where the hub keeps a split, in the data sets with configs; in the others it is below ``data``."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is taken from, or left in, the user's cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def table_task(name: str, data_dir: Path = Path(SAMPLES)) -> TableTask:
    task = get_task(name, data_dir)
    assert isinstance(task, TableTask)
    return task


def parts() -> Iterator[tuple[str, str, str]]:
    for name in NAMES:
        task = table_task(name)
        yield from ((name, level, split) for level in task.levels for split in task.splits)


def shipped_rows(name: str, level: str, split: str) -> list[dict[str, Any]]:
    """What the task should find, read without it."""
    task = table_task(name)
    files = SHIPPED.joinpath(name).rglob(f"{task.hub_split(level, split)}.jsonl")
    return [row for file in files for row in map(json.loads, file.open()) if task.belongs(row, level)]


def test_every_task_but_the_generated_one_reads_a_table() -> None:
    assert task_names() == (*NAMES, "tiny")


@pytest.mark.parametrize(("name", "level", "split"), parts())
def test_shipped_samples_are_read_in_full(name: str, level: str, split: str) -> None:
    task, rows = table_task(name), shipped_rows(name, level, split)
    task.check(level, split)
    found = task.examples(level, split, seed=0, count=100)
    assert len(found) == len(rows) > 0
    assert len({example.id for example in found}) == len(rows)
    if split == "test":
        assert task.default_problems(level) == len(rows)
    by_id = {example.id: example for example in found}
    for row in rows:
        assert by_id[task.example(row).id] == task.example(row)


def solution(name: str, row: dict[str, Any]) -> tuple[str, str]:
    """A right and a wrong response to a row, in the words of the data set's own solution."""
    if name == "gsm8k":
        number = row["answer"].rpartition("#### ")[2]
        return f"\\boxed{{{number}}}", f"\\boxed{{{number}1}}"
    if name == "mbpp":
        wrong = re.sub(r"return .*", "return 'wrong'", row["code"])
        return f"```python\n{row['code']}\n```", f"```python\n{wrong}\n```"
    if name in ("mmlu_pro", "longreason"):
        other = "A" if row["answer"] != "A" else "B"
        right = row["cot_content"] if name == "mmlu_pro" else f"{row['analysis']} \\boxed{{{row['answer']}}}"
        return right, f"{row['answer']} is tempting. \\boxed{{{other}}}"
    return row["solution"], "It is $\\boxed{9999}$."


@pytest.mark.parametrize(("name", "level"), [(name, table_task(name).default_level) for name in NAMES])
def test_shipped_samples_are_graded(name: str, level: str) -> None:
    task, rows = table_task(name), shipped_rows(name, level, "test")
    examples = [task.example(row) for row in rows]
    right, wrong = zip(*(solution(name, row) for row in rows), strict=True)
    assert [v.correct for v in task.grade(examples, right, thinking=False)] == [True] * len(rows)
    assert [v.correct for v in task.grade(examples, wrong, thinking=False)] == [False] * len(rows)
    thought = [f"{text}</think>I do not know." for text in right]
    verdicts = task.grade(examples, thought)
    assert not any(v.correct for v in verdicts)
    if task.grader != "math":
        assert all(v.extracted is None for v in verdicts)


def hub_copy(name: str, folder: Path) -> None:
    """The samples as the hub lays its data sets out: parquet files, and a card that says which is which."""
    task = table_task(name)
    card = ["---", "configs:", f"- config_name: {task.config or 'default'}", "  data_files:"]
    layout = HUB_FILES.get(name, "data/{split}-00000-of-00001.parquet")
    for source in sorted((SHIPPED / name).rglob("*.jsonl")):
        target = layout.format(config=task.config, split=source.stem)
        card += [f"  - split: '{source.stem}'", f"    path: {target.replace('-00000-of-00001', '-*')}"]
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        rows = [json.loads(line) for line in source.open()]
        import_datasets().Dataset.from_list(rows).to_parquet(folder / target)
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_of_the_hub_gives_the_same_problems(name: str, tmp_path: Path) -> None:
    hub_copy(name, tmp_path / name)
    copy, samples = table_task(name, tmp_path), table_task(name)
    for level in copy.levels:
        for split in copy.splits:
            expected = samples.examples(level, split, 3, 100)
            assert copy.examples(level, split, 3, 100) == expected
    assert copy.revision.startswith("sha256:") and copy.revision != samples.revision


def test_other_local_layouts(tmp_path: Path) -> None:
    """A saved data set, and plain files without a card."""
    expected = table_task("gsm8k").examples("all", "test", 0, 100)
    rows = shipped_rows("gsm8k", "all", "test")
    datasets = import_datasets()
    saved = datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})
    saved.save_to_disk(tmp_path / "saved" / "gsm8k")
    assert table_task("gsm8k", tmp_path / "saved").examples("all", "test", 0, 100) == expected
    (tmp_path / "plain" / "gsm8k").mkdir(parents=True)
    shutil.copy(SHIPPED / "gsm8k/main/test.jsonl", tmp_path / "plain/gsm8k/test.jsonl")
    assert table_task("gsm8k", tmp_path / "plain").examples("all", "test", 0, 100) == expected


def test_the_draw_depends_on_the_seed_alone(tmp_path: Path) -> None:
    task = table_task("gsm8k")
    whole = task.examples("all", "test", 0, 100)
    assert task.examples("all", "test", 0, 3) == whole[:3]
    assert task.examples("all", "test", 1, 100) != whole
    assert sorted(task.examples("all", "test", 1, 100), key=str) == sorted(whole, key=str)
    lines = (SHIPPED / "gsm8k/main/test.jsonl").read_text().splitlines(keepends=True)
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    (folder / "test.jsonl").write_text("".join(reversed(lines)))
    assert table_task("gsm8k", tmp_path).examples("all", "test", 0, 100) == whole


def test_prompts_and_limits() -> None:
    limits = {name: table_task(name).max_new_tokens(table_task(name).default_level) for name in NAMES}
    assert limits == {**dict.fromkeys(NAMES, 8192), "aime24": 16384}
    for name in ("gsm8k", "math_500", "aime24", "mmlu_pro", "longreason"):
        task = table_task(name)
        prompt = task.examples(task.default_level, "test", 0, 1)[0].prompt
        assert r"within \boxed{}" in prompt.splitlines()[-1]
    subject = table_task("mmlu_pro").examples("computer-science", "test", 0, 10)
    assert {example.id for example in subject} == {"11", "12", "13"}
    assert "\nD. 32\n" in next(example.prompt for example in subject if example.id == "12")
    tree = next(e for e in table_task("mbpp").examples("all", "test", 0, 10) if e.id == "15")
    assert "root.left.left = Node(4)\nassert (depth(root)) == 3" in tree.prompt and "\r" not in tree.prompt
    assert tree.answer in tree.prompt


def test_every_published_table_is_pinned_or_says_that_it_is_not() -> None:
    commits = {name: table_task(name).commit for name in NAMES}
    assert [name for name, commit in commits.items() if commit is None] == ["longreason"]
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in commits.values() if commit)
    assert get_task("gsm8k").revision == commits["gsm8k"]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"gsm8k: no such folder, expected a copy of openai/gsm8k \(hf download"
    ):
        _ = table_task("gsm8k", tmp_path).folder
    with pytest.raises(
        ConfigError, match="level is 'history', expected one of all, chemistry, computer-science"
    ):
        table_task("mmlu_pro").check("history", "test")
    with pytest.raises(ConfigError, match="split is 'validation', expected one of test"):
        table_task("aime24").check("all", "validation")
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text('{"question": "Why?"}\n')
    with pytest.raises(DataError, match="no column 'answer', found question"):
        table_task("gsm8k", tmp_path).examples("all", "test", 0, 1)
    (tmp_path / "gsm8k" / "test.jsonl").write_text('{"question": "Why?", "answer": "Because."}\n')
    with pytest.raises(DataError, match=r"gsm8k: answer is 'Because\.', expected #### and a number"):
        table_task("gsm8k", tmp_path).examples("all", "test", 0, 1)


def test_a_run_on_samples_from_the_command_line(tmp_path: Path) -> None:
    """Each benchmark through the whole harness, with a model that cannot solve them."""
    from rlkv_eval.cli import app
    from typer.testing import CliRunner

    tasks = ",".join((*NAMES[:2], "longreason:8k", *NAMES[3:]))
    options = ("--out", str(tmp_path / "run"), "--tasks", tasks, "--data-dir", SAMPLES, "--methods", "full")
    result = CliRunner().invoke(app, ["run", *options, "--max-new-tokens", "2"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    answers = {f.name: f.read_text().splitlines() for f in (tmp_path / "run/results").iterdir()}
    assert sorted(len(lines) - 1 for lines in answers.values()) == sorted(
        len(shipped_rows(name, "8k" if name == "longreason" else "all", "test")) for name in NAMES
    )
    assert not any(json.loads(line)["correct"] for lines in answers.values() for line in lines[1:])


def test_unsandboxed_code_has_to_be_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rlkv_eval.config import EvalConfig

    from rlkv.grading.sandbox import ALLOW_UNSANDBOXED

    monkeypatch.setenv(ALLOW_UNSANDBOXED, "0")  # and so it is put back
    EvalConfig(out=tmp_path, tasks=("mbpp",))
    assert os.environ[ALLOW_UNSANDBOXED] == "0"
    EvalConfig(out=tmp_path, tasks=("mbpp",), allow_unsandboxed_code=True)
    assert os.environ[ALLOW_UNSANDBOXED] == "1"
