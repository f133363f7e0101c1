"""``rlkv data``: make training data from what a model solves itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlkv.data.buckets import PAPER_BUCKETS, Bucket, Selection, parse_buckets
from rlkv.data.source import BOXED_INSTRUCTION
from rlkv.errors import ConfigError, DataError
from rlkv.grading import CODE, GRADERS, MATH
from rlkv.grading.sandbox import require_sandbox
from rlkv.tiny.problems import DEFAULT_LEVEL, LEVELS

if TYPE_CHECKING:
    from rlkv.data import Problem
    from rlkv.data.sampling import Solver

TINY_SOURCE = "tiny"
TINY_MAX_PROBLEMS = 5000

app = typer.Typer(
    help="Make training data from what a model solves itself.",
    add_completion=False,
    rich_markup_mode="markdown",
)


@dataclass(frozen=True)
class Source:
    """Problems, how many there are (None: no end), what identifies them in a journal, and their grader."""

    problems: Iterator[Problem]
    size: int | None
    identity: dict[str, Any]
    grader: str = MATH


@app.command(no_args_is_help=True)
def data(
    model: Annotated[
        str,
        typer.Argument(
            help="Hub id, model folder, or the name of a model shipped with rlkv; with --endpoint the name "
            "that the server gives it."
        ),
    ],
    *,
    source: Annotated[
        str,
        typer.Option(
            help="Problems: a data set on the hub, a JSON-lines, CSV or parquet file, a folder of "
            f"such or of save_to_disk, or '{TINY_SOURCE}', the task of tiny-reasoner."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the journal, the data set and its card.")],
    buckets: Annotated[
        str, typer.Option(metavar="COUNT:MIN-MAX,...", help="How many samples of which response lengths.")
    ] = ",".join(map(str, PAPER_BUCKETS)),
    revision: Annotated[str | None, typer.Option(help="Revision of a model on the hub.")] = None,
    source_revision: Annotated[str | None, typer.Option(help="Revision of a data set on the hub.")] = None,
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "train",
    problem_column: Annotated[str, typer.Option(help="Column with the problem's text.")] = "problem",
    answer_column: Annotated[str, typer.Option(help="Column with the right answer.")] = "answer",
    instruction: Annotated[
        str, typer.Option(help=f"Text put below each problem (not for '{TINY_SOURCE}'); may be empty.")
    ] = BOXED_INSTRUCTION,
    grader: Annotated[
        str, typer.Option(help=f"How answers are graded (not for '{TINY_SOURCE}'): {', '.join(GRADERS)}.")
    ] = MATH,
    levels: Annotated[
        str, typer.Option(help=f"Levels of '{TINY_SOURCE}', comma-separated: {', '.join(LEVELS)}.")
    ] = DEFAULT_LEVEL,
    thinking: Annotated[
        bool, typer.Option(help="The answer stands after `</think>`; --no-thinking for models without it.")
    ] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Problems solved at once in this process.")] = 32,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Server with OpenAI's protocol that solves the problems, such as that of rlkv serve; a key "
            "is read from OPENAI_API_KEY.",
            show_default="the model in this process",
        ),
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, help="Requests to the endpoint at the same time.")] = 128,
    timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Longest try of a request to the endpoint.")
    ] = 1800.0,
    max_problems: Annotated[
        int | None,
        typer.Option(
            min=1, help="Stop here even if a bucket is not full.", show_default="whole source; tiny 5000"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides which problems, and their order in a bucket.")] = 0,
) -> None:
    """Let a model solve problems greedily; what it solves becomes its training data.

    A gate can only be trained on problems that the model solves with its full cache: a wrong answer then
    says that a head was missed. Solved problems go to buckets by the length of the response, and training
    takes the short ones first. Lengths are tokens; COUNT:MIN-MAX wants COUNT responses of more than MIN and
    at most MAX of them, and no response runs longer than the last MAX. The default is the paper's 3,000.

    Interrupted? The same command continues where it stopped. Changed something that decides which samples
    come out? It says so and stops. If a bucket stays short, raise --max-problems and run it again.

    Try it without a GPU:

    `rlkv data tiny-reasoner --source tiny --levels easy --buckets 20:0-80,20:80-140 --out runs/tiny-data`

    The paper's data for one of its models:

    `rlkv data deepseek-ai/DeepSeek-R1-Distill-Qwen-7B --source agentica-org/DeepScaleR-Preview-Dataset
    --out runs/qwen-7b-data`

    The same with a server that does the work, here or elsewhere:

    `rlkv serve --model deepseek-ai/DeepSeek-R1-Distill-Qwen-7B --port 30000`

    `rlkv data deepseek-ai/DeepSeek-R1-Distill-Qwen-7B --endpoint http://127.0.0.1:30000
    --source agentica-org/DeepScaleR-Preview-Dataset --out runs/qwen-7b-data`
    """
    wanted = parse_buckets(buckets)
    found = (
        _tiny_source(levels, seed)
        if source == TINY_SOURCE
        else _table_source(
            source,
            source_revision,
            split,
            (problem_column, answer_column),
            instruction=instruction,
            seed=seed,
            grader=grader,
        )
    )
    limit = max_problems if max_problems is not None or found.size else TINY_MAX_PROBLEMS
    if endpoint is None:
        solver, state = _in_process(model, revision, wanted, thinking=thinking, batch_size=batch_size)
    elif revision is not None:
        raise ConfigError(f"--revision is {revision!r}, expected none: --endpoint has its own")
    else:
        solver, state = _over_endpoint(
            model, endpoint, wanted, thinking=thinking, in_flight=in_flight, timeout_s=timeout
        )
    identity = {
        "model": model,
        **state,
        **found.identity,
        "seed": seed,
        "buckets": ",".join(map(str, wanted)),
        "thinking": thinking,
    }
    _run(solver, found, wanted, out, identity=identity, max_problems=limit, thinking=thinking, seed=seed)


def _in_process(
    model: str, revision: str | None, buckets: tuple[Bucket, ...], *, thinking: bool, batch_size: int
) -> tuple[Solver, dict[str, Any]]:
    """The solver, and what tells the model's state from another one."""
    from rlkv.data.solver import ModelSolver, fingerprint
    from rlkv.models import resolve_model

    path = resolve_model(model)
    solver = ModelSolver(path, revision, buckets[-1].max_tokens, thinking, batch_size)
    return solver, {"revision": revision, "fingerprint": fingerprint(path)}


def _over_endpoint(
    model: str,
    url: str,
    buckets: tuple[Bucket, ...],
    *,
    thinking: bool,
    in_flight: int,
    timeout_s: float,
) -> tuple[Solver, dict[str, Any]]:
    """The same for a server, which does not say which state of the model it has."""
    from rlkv.data.endpoint import EndpointSolver

    solver = EndpointSolver(url, model, buckets[-1].max_tokens, thinking, in_flight, timeout_s)
    return solver, {"revision": None, "fingerprint": None}


def _run(
    solve: Solver,
    source: Source,
    buckets: tuple[Bucket, ...],
    out: Path,
    *,
    identity: dict[str, Any],
    max_problems: int | None,
    thinking: bool,
    seed: int,
) -> None:
    from rlkv.cli import data_view
    from rlkv.data import Journal, collect, save_training_data

    selection = Selection(buckets)
    _make_folder(out)
    with Journal(out / "journal.jsonl", identity) as journal, data_view.Progress(buckets) as progress:
        collect(source.problems, solve, journal, selection, max_problems=max_problems, report=progress.show)
        save_training_data(selection, out, seed, identity, grader=source.grader, thinking=thinking)
    data_view.print_summary(selection, out)


def _tiny_source(levels: str, seed: int) -> Source:
    from rlkv.data import tiny_problems

    names = [name.strip() for name in levels.split(",")]
    for name in names:
        if name not in LEVELS:
            raise ConfigError(f"--levels: found {name!r}, expected some of {', '.join(LEVELS)}")
    return Source(tiny_problems(names, seed), None, {"source": TINY_SOURCE, "levels": names})


def _table_source(
    source: str,
    revision: str | None,
    split: str,
    columns: tuple[str, str],
    *,
    instruction: str,
    seed: int,
    grader: str,
) -> Source:
    from rlkv.data import read_table, table_problems

    if grader not in GRADERS:
        raise ConfigError(f"--grader: found {grader!r}, expected one of {', '.join(GRADERS)}")
    if grader == CODE:
        require_sandbox()
    table = read_table(source, columns, revision, split)
    identity = {
        "source": source,
        "source_revision": revision,
        "split": split,
        "rows": len(table),
        "columns": list(columns),
        "instruction": instruction,
        "grader": grader,
    }
    problems = table_problems(table, *columns, instruction, seed, grader)
    return Source(problems, len(table), identity, grader)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out {out}: cannot be made: {error.strerror}") from error
