"""``rlkv eval``: compare methods on a task, and report a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlkv.errors import ConfigError
from rlkv.window import Window

from .config import BUILT_IN_METHODS, DEVICES, DTYPES, EvalConfig
from .tasks import task_names

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Compare methods on a task, with confidence intervals.", no_args_is_help=True)

TABLE_WIDTH = 110
"""Columns that the table needs; a folded row could not be read."""


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="Run folder; a run that was stopped goes on there.")],
    model: Annotated[str, typer.Option(help="Shipped model, folder, or name on the hub.")] = EvalConfig.model,
    task: Annotated[str, typer.Option(help=f"One of {', '.join(task_names())}.")] = EvalConfig.task,
    level: Annotated[
        str | None, typer.Option(help="Part of the task.", show_default="the task's default")
    ] = None,
    split: Annotated[str, typer.Option(help="Set of problems.")] = EvalConfig.split,
    methods: Annotated[
        str, typer.Option(help="Methods, separated by commas, or names given by --heads.")
    ] = ",".join(BUILT_IN_METHODS),
    sparsities: Annotated[
        str, typer.Option(help="Fractions of KV heads that stream, separated by commas.")
    ] = ",".join(map(str, EvalConfig.sparsities)),
    heads: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="A heads file as a method of that name; may be repeated."),
    ] = None,
    n: Annotated[
        int, typer.Option("--n", help="Problems for each method and sparsity.")
    ] = EvalConfig.num_problems,
    seed: Annotated[int, typer.Option(help="Which problems, and the sampling.")] = EvalConfig.seed,
    random_seeds: Annotated[int, typer.Option(help="Random draws of heads.")] = EvalConfig.random_seeds,
    ablation_problems: Annotated[
        int, typer.Option(help="Validation problems that rank heads by ablation.")
    ] = EvalConfig.ablation_problems,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="S+W", help="Window of streaming heads.", show_default="serving window of the heads file"
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Token limit of an answer.", show_default="the task's")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = EvalConfig.temperature,
    top_p: Annotated[float, typer.Option(help="Nucleus of sampling.")] = EvalConfig.top_p,
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(DTYPES)}.")] = EvalConfig.dtype,
    device: Annotated[str, typer.Option(help=f"One of {', '.join(DEVICES)}.")] = EvalConfig.device,
    batch_size: Annotated[int, typer.Option(help="Problems answered at a time.")] = EvalConfig.batch_size,
) -> None:
    """Answer the same problems with every method at every sparsity, and report.

    The model is first asked with its stock cache (full), then with some KV heads streaming: those that a
    heads file ranks lowest (rlkv, ablation, or any --heads), random ones, or all.

    Example: rlkv eval run --out runs/tiny --methods full,rlkv,random --sparsities 0.5,0.7 --n 200
    """
    config = EvalConfig(
        out=out,
        model=model,
        task=task,
        level=level,
        split=split,
        seed=seed,
        num_problems=n,
        methods=_names(methods),
        sparsities=_numbers(sparsities),
        heads=_named_files(heads or []),
        random_seeds=random_seeds,
        ablation_problems=ablation_problems,
        window=None if window is None else Window.parse(window),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        dtype=dtype,
        device=device,
        batch_size=batch_size,
    )
    console = _console()
    # Imported once the options are known to be good: torch and transformers take seconds.
    from transformers.utils import logging

    from .progress import Terminal
    from .runner import evaluate

    logging.disable_progress_bar()  # of loading weights: it would tear through ours
    with Terminal(console) as terminal:
        evaluate(config, terminal)
    _report(out, console)


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="Folder of rlkv eval run.")],
) -> None:
    """Print the table of a comparison and write its summary.json and pictures again."""
    _report(folder, _console())


def _report(folder: Path, console: Console) -> None:
    from .report import report

    table = report(folder)
    console.print()
    console.print(table)
    console.print(f"\nsummary and pictures: {folder}", highlight=False, markup=False)


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal or console.width < TABLE_WIDTH:
        console.width = TABLE_WIDTH
    return console


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in _names(text))
    except ValueError:
        expected = "numbers in [0, 1] separated by commas"
        raise ConfigError(f"sparsities: found {text!r}, expected {expected}") from None


def _named_files(texts: list[str]) -> dict[str, str]:
    files: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise ConfigError(f"heads: found {text!r}, expected NAME=FILE")
        if name in files:
            raise ConfigError(f"heads: {name} is given twice, expected once")
        files[name] = path
    return files
