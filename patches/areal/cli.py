"""``rlkv train-areal``: find the heads of a model with rollouts from SGLang servers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rlkv.cli.options import given, with_options_of
from rlkv.errors import ConfigError

from .recipe import from_recipe, recipes
from .settings import AREAL_PRESETS, ArealConfig

app = typer.Typer(
    help="Find the heads of a model, generating on SGLang servers while training on AReaL.",
    add_completion=False,
    rich_markup_mode="markdown",
)


@app.command(no_args_is_help=True)
@with_options_of(skip=("micro_batch_size",), areal=ArealConfig)
def train(
    recipe: Annotated[
        str, typer.Argument(help=f"A YAML file, or one of {', '.join(recipes())}; empty for none.")
    ] = "",
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"Settings to start from: {', '.join(AREAL_PRESETS)}. Default: the recipe's, or the paper's."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check the settings, print what they change in AReaL's, and stop."),
    ] = False,
    **options: Any,
) -> None:
    """Train one gate per KV head on AReaL and SGLang servers, and write heads.json.

    The same as `rlkv train`, with the same settings, but the responses come from SGLang servers in mixed
    mode (`--rlkv-gates`), AReaL trains, and the gates go to the servers after every step. docs/training.md
    says how it is installed and how it scales.

    Interrupted? The same command continues from the last checkpoint.
    """
    config = from_recipe(recipe, preset, given(options))
    from .run import check, forecast
    from .run import train as run

    if dry_run:
        built = check(config)  # also that AReaL is there
        from .experiment import describe

        typer.echo(describe(built))
        try:
            said = forecast(built)
        except ConfigError as error:  # the machine of a dry run may have no way to the model
            said = f"forecast: none: {error}"
        typer.echo(said, err=True)
        return
    typer.echo(f"wrote {run(config)}")
