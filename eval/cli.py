"""``rlkv eval``: compare methods on tasks, and report a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlkv.cli.options import given, with_options_of
from rlkv.errors import ConfigError

from .config import EvalConfig
from .tasks import task_names
from .throughput.cli import throughput

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Compare methods on tasks, with confidence intervals.", no_args_is_help=True, add_completion=False
)

app.command()(throughput)

TABLE_WIDTH = 150
"""Of output that goes to no terminal."""

SPARE_COLUMNS = (
    "unparsed",
    "incorrect",
    "overlong",
    "repetitive",
    "KV KiB",
    "length",
    "p vs full",
    "95% interval",
)
"""What a narrow terminal does not show, in this order."""


@app.command(epilog=f"Tasks: {', '.join(task_names())}.")
@with_options_of(eval=EvalConfig, skip=("out", "heads"))
def run(
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder; a run that was stopped goes on there.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="YAML",
            help="File of these options by name; those given here go before.",
            show_default=False,
        ),
    ] = None,
    heads: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="A heads file as a method of that name; may be repeated."),
    ] = None,
    **options: Any,
) -> None:
    """Answer the same problems with every method at every sparsity, and report.

    The model is first asked with its stock cache (full), then with some KV heads streaming: those that a
    heads file ranks lowest (rlkv, ablation, or any --heads), random ones, or all.

    Example: rlkv eval run --out runs/tiny --methods full,rlkv,random --sparsities 0.5,0.7 --n 200
    """
    from .config_file import read_config

    settings = read_config(config) if config else {}
    settings |= given({**options, "out": out, "heads": _named_files(heads) if heads else None})
    if "out" not in settings:
        raise ConfigError("out: not given, expected a run folder (--out FOLDER)")
    if settings.get("budgets") and settings.get("sparsities"):
        raise ConfigError("sparsities: given with budgets, which stand in their place; expected one of them")
    checked = EvalConfig(**settings)
    console = _console()
    # Imported once the options are known to be good: torch and transformers take seconds.
    from transformers.utils import logging

    from .progress import Terminal
    from .runner import evaluate

    logging.disable_progress_bar()  # of loading weights: it would tear through ours
    with Terminal(console) as terminal:
        evaluate(checked, terminal)
    _report(checked.out, console)


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="Folder of rlkv eval run.")],
    published: Annotated[
        Path | None,
        typer.Option(
            metavar="TSV",
            help="Published figures to show beside: columns model, bench, full, method, sp0.2, ...",
            show_default=False,
        ),
    ] = None,
    published_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Model of that table to draw. Default: its only one, or the one of the same name.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print the tables of a comparison and write its summary.json, report.md, report.html and pictures."""
    if published_model and not published:
        raise ConfigError("published_model: given without a table, expected --published TSV")
    _report(folder, _console(), published, published_model)


def _report(
    folder: Path, console: Console, published: Path | None = None, published_model: str | None = None
) -> None:
    from .report import report
    from .tables import narrow

    for table in report(folder, published, published_model):
        gone = narrow(table, console, SPARE_COLUMNS)
        console.print()
        console.print(table)
        if gone:
            console.print(f"not shown at this width, see report.md: {', '.join(gone)}", style="dim")
    console.print(
        f"\nreport: {folder}/report.html, report.md, summary.json and pictures", highlight=False, markup=False
    )


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    return console


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
