"""The run folder: which results belong to the comparison that it shows.

::

    run.json                    settings and the list of results
    results/NAME-HASH.jsonl     answers of one method at one sparsity on one task
    heads/NAME-HASH.json        heads files that took part, as they were
    problems/TASK.json          id, prompt and right answer of each problem
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rlkv import atomic
from rlkv.errors import DataError
from rlkv.heads import HeadsFile

from .identity import digest
from .methods import Step
from .records import read_journal
from .results import Answered, Result, summarise, with_pairs, with_shares
from .tasks import Example

RUN_FILE = "run.json"
HASH_LENGTH = 16


@dataclass(frozen=True)
class Entry:
    """One result of a run; paths are relative to the run folder.

    Attributes:
        task: label of the task.
        method: name of the method.
        sparsity: fraction of KV heads that stream.
        seed: of the draw, None for every method but random.
        file: answers.
        heads: heads file behind the mask, None where there is none.
        budget: share of full's KV bytes, None where the sparsity was asked for.
        options: hyper-parameters of a method that drops tokens, None for the others and in files of versions
            that did not write them down.
        schedule: of such a method's budget, likewise.
    """

    task: str
    method: str
    sparsity: float
    seed: int | None
    file: str
    heads: str | None
    budget: float | None = None
    options: dict[str, Any] | None = None
    schedule: str | None = None

    def goes_with(self, other: Entry) -> bool:
        """Whether both may be points of one curve, being of one method."""
        return (self.heads, self.options, self.schedule) == (other.heads, other.options, other.schedule)


@dataclass(frozen=True)
class Run:
    """A comparison.

    Attributes:
        model: name that the user gave.
        window: of streaming heads, as ``S+W``, None where nothing streams.
        settings: what all results share (``identity.settings``).
        tasks: what the results of each task share besides, by its label (``identity.task_settings``).
        entries: the results, in the order of work.
    """

    model: str
    window: str | None
    settings: dict[str, Any]
    tasks: dict[str, dict[str, Any]]
    entries: list[Entry]


def create(folder: Path, parts: Sequence[str] = ("results", "heads", "problems")) -> None:
    """Make a run folder, or keep the one there is.

    Args:
        folder: of the run.
        parts: folders in it.

    Raises:
        DataError: the folder cannot be made.
    """
    try:
        for part in parts:
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot make the run folder: {error.strerror or error}") from error


def result_path(task: str, name: str, level: str, identity: dict[str, Any]) -> str:
    """File of a result, relative to the run folder."""
    return f"results/{task.replace(':', '-')}-{name}-{level}-{digest(identity)[:HASH_LENGTH]}.jsonl"


def keep_heads(folder: Path, name: str, heads: HeadsFile) -> str:
    """Copy a heads file into the run folder; returns its path there, the same for the same gates."""
    relative = f"heads/{name}-{digest(heads.to_json())[:HASH_LENGTH]}.json"
    if not (folder / relative).exists():
        heads.write(folder / relative)
    return relative


def keep_problems(folder: Path, task: str, examples: Sequence[Example]) -> None:
    """Write a task's problems into the run folder, for those who read the answers."""
    write_text(_problems_path(folder, task), json.dumps([asdict(e) for e in examples], indent=1) + "\n")


def read_problems(folder: Path, task: str) -> list[Example]:
    """The problems of a task.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = _problems_path(folder, task)
    try:
        return [Example(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except OSError as error:
        raise DataError(
            f"{path}: cannot read: {error.strerror or error}; run again, answers are kept"
        ) from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: is damaged ({error}); run again, answers are kept") from error


def _problems_path(folder: Path, task: str) -> Path:
    return folder / "problems" / f"{task.replace(':', '-')}.json"


def kept_heads(folder: Path, name: str) -> list[Path]:
    """The heads files of that name that a run folder has."""
    return sorted((folder / "heads").glob(f"{name}-{'[0-9a-f]' * HASH_LENGTH}.json"))


def write_run(folder: Path, run: Run) -> None:
    """Make ``run`` the comparison of the folder, together with what an earlier run of the same settings adds.

    So one comparison can be put together by several commands.

    Raises:
        DataError: the folder cannot be written.
    """
    kept, window, tasks = [], run.window, run.tasks
    if (folder / RUN_FILE).exists():
        old = read_run(folder)
        # Full answers have no window: they go with any.
        same_window = None in (old.window, run.window) or old.window == run.window
        if old.settings == run.settings and same_window:
            tasks = run.tasks | {task: own for task, own in old.tasks.items() if task not in run.tasks}
            kept = [
                entry
                for entry in old.entries
                if old.tasks[entry.task] == tasks[entry.task] and not _replaced(entry, run.entries)
            ]
            window = run.window or old.window
    merged = asdict(Run(run.model, window, run.settings, tasks, [*run.entries, *kept]))
    write_text(folder / RUN_FILE, json.dumps(merged, indent=1) + "\n")


def _replaced(old: Entry, entries: list[Entry]) -> bool:
    """Whether a run answers the same again, or with other heads or options under the same name."""
    same_method = [entry for entry in entries if entry.method == old.method]
    return any(
        (entry.task, entry.sparsity, entry.seed, entry.budget)
        == (old.task, old.sparsity, old.seed, old.budget)
        or not entry.goes_with(old)
        for entry in same_method
    )


def read_run(folder: Path) -> Run:
    """The comparison of a run folder.

    Raises:
        DataError: the folder holds none, or a damaged one.
    """
    path = folder / RUN_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        entries = [Entry(**entry) for entry in data.pop("entries")]
        return Run(**data, entries=entries)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: cannot read: {reason}; expected a folder of rlkv eval run") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: is damaged ({error}); delete it and run again, answers are kept") from error


def read_results(folder: Path, run: Run) -> list[Result]:
    """The figures of all results that have begun."""
    return [result for result, _ in read_answers(folder, run)]


def read_answers(folder: Path, run: Run) -> list[Answered]:
    """All results that have begun, compared with full where full is among them, and their answers."""
    draws = run.settings["samples"]
    results, answers = [], []
    for entry in run.entries:
        if not (folder / entry.file).exists():
            continue
        _, samples = read_journal(folder / entry.file)
        if samples:
            step = Step(entry.method, entry.sparsity, entry.seed, entry.budget)
            num_problems = run.tasks[entry.task]["num_problems"]
            result = summarise(entry.task, step, samples, num_problems, draws, entry.file)
            results.append(replace(result, options=entry.options, schedule=entry.schedule))
            answers.append(samples)
    return with_pairs(list(zip(with_shares(results), answers, strict=True)), draws)


def write_text(path: Path, text: str) -> None:
    """Replace a small file.

    Raises:
        DataError: it cannot be written.
    """
    try:
        atomic.write_text(path, text)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: cannot write: {reason} (an old file stays as it was)") from error
