"""Command-line options made from a configuration dataclass, so that nothing is configured twice."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from enum import StrEnum
from typing import Annotated, Any, get_type_hints

import typer

from rlkv.window import Window


def with_options_of(
    skip: tuple[str, ...] = (), **configs: type
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a typer command one option for each field of some dataclasses.

    An option that is not given arrives as None, so that a preset can tell it from a default; the help shows
    the field's default, and puts what only one of the dataclasses has under its name. The command takes these
    options as keyword arguments.

    Args:
        skip: fields that the command declares itself.
        configs: by the names that the help gives them. Their fields carry ``metadata["help"]`` and, where the
            field's name and type do not say it all, ``flag``, ``shown`` (in place of the default) and
            ``parser`` with ``metavar``.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
        options = _parameters(configs, skip)
        own_hints = get_type_hints(command, include_extras=True)
        own = [p.replace(annotation=own_hints[p.name]) for p in own]
        command.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in [*own, *options]}
        return command

    return decorate


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as the dataclass takes them."""
    found = {name: value for name, value in options.items() if value is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _parameters(configs: dict[str, type], skip: tuple[str, ...]) -> list[inspect.Parameter]:
    """One for each name among the fields, in the order in which they first come."""
    owners: dict[str, dict[str, Field]] = {}
    kinds: dict[str, Any] = {}
    for owner, config in configs.items():
        hints = get_type_hints(config)
        for field in fields(config):
            owners.setdefault(field.name, {})[owner] = field
            kinds[field.name] = hints[field.name]
    wanted = {name: found for name, found in owners.items() if name not in skip}
    return [_parameter(found, kinds[name], len(configs)) for name, found in wanted.items()]


def _parameter(found: dict[str, Field], kind: Any, num_configs: int) -> inspect.Parameter:
    """The option of one name.

    Args:
        found: the field in each of the dataclasses that have it.
        kind: its type.
        num_configs: dataclasses that the command takes.
    """
    field = next(iter(found.values()))
    metadata = field.metadata
    defaults = {owner: each.metadata.get("shown", _shown(each.default)) for owner, each in found.items()}
    shown = next(iter(defaults.values()))
    if len(set(defaults.values())) > 1:
        shown = ", ".join(f"{default} ({owner})" for owner, default in defaults.items())
    settings: dict[str, Any] = {"help": metadata["help"], "show_default": shown}
    if len(found) < num_configs:
        settings["rich_help_panel"] = f"Only for {' and '.join(found)}"
    if "parser" in metadata:
        kind = str  # of the text on the command line
        settings |= {"parser": metadata["parser"], "metavar": metadata["metavar"]}
    elif kind is Window:
        settings |= {"parser": Window.parse, "metavar": "SINK+RECENT"}
    elif kind == tuple[str, ...]:
        kind = list[str]
    flags = [metadata["flag"]] if "flag" in metadata else []
    option = typer.Option(*flags, **settings)
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return default.value if isinstance(default, StrEnum) else str(default)
