"""Entry of the ``rlkv`` command: which sub-commands there are, and how an error reaches the user.

Sub-commands are loaded when they run, so that ``rlkv --help`` imports none of them. A sub-command
module in turn keeps torch and transformers out of its top level.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from rlkv.errors import RLKVError
from rlkv.process import end_in_order, prepare_for_cpu

PLUGIN_GROUP = "rlkv.commands"
"""Entry-point group in which another package offers a ``typer.Typer`` as a sub-command."""


@dataclass(frozen=True)
class SubCommand:
    """A sub-command of rlkv itself: where its ``typer.Typer`` is, and its line in ``rlkv --help``."""

    target: str
    help: str


SUB_COMMANDS = {
    "data": SubCommand("rlkv.cli.data:app", "Make training data from what a model solves itself."),
    "train": SubCommand(
        "rlkv.cli.train:app", "Find the heads of a model by reinforcement learning, or by distillation."
    ),
    "heads": SubCommand("rlkv.cli.heads:app", "Show, rank, import and compare heads files."),
    "plan": SubCommand(
        "rlkv.cli.plan:app", "Predict memory, concurrency and speed of serving with a heads file."
    ),
}


class LazyGroup(TyperGroup):
    """Group that knows the sub-commands by name and help, and loads the one that runs."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of rlkv's own sub-commands, then those of plugins."""
        return [*SUB_COMMANDS, *_plugins()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """What help and completion need of a sub-command: its name and one line."""
        if cmd_name in SUB_COMMANDS:
            return TyperCommand(cmd_name, help=SUB_COMMANDS[cmd_name].help)
        if cmd_name in _plugins():
            return TyperCommand(cmd_name, help=_plugin_help(cmd_name))
        return None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The sub-command that is to run, loaded."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, _load(name) if name else None, rest

    def invoke(self, ctx: Any) -> Any:
        """Run; an error that the user can act on becomes one line and status 2, any other a traceback."""
        try:
            return super().invoke(ctx)
        except RLKVError as error:
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=LazyGroup,
    help="Find the KV heads that a reasoning model can stream, and serve it with a hybrid cache.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        import rlkv

        typer.echo(f"rlkv {rlkv.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Options of ``rlkv`` itself."""


def main() -> None:
    """Run the command line."""
    prepare_for_cpu()
    end_in_order()
    app(prog_name="rlkv")


@cache
def _plugins() -> dict[str, EntryPoint]:
    """Sub-commands of other packages; rlkv's own names cannot be taken over."""
    found = entry_points(group=PLUGIN_GROUP)
    return {point.name: point for point in found if point.name not in SUB_COMMANDS}


def _plugin_help(name: str) -> str:
    """One line of a plugin's own help; a plugin that cannot be imported must not take the others along."""
    try:
        return str(_load(name).get_short_help_str(limit=200))
    except ImportError as error:
        return f"(cannot be loaded: {error})"


def _load(name: str) -> Any:
    if name in SUB_COMMANDS:
        module, attribute = SUB_COMMANDS[name].target.split(":")
        loaded = getattr(import_module(module), attribute)
    else:
        loaded = _plugins()[name].load()
    command = typer.main.get_command(loaded)
    command.name = name
    return command
