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
    config: type, skip: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a typer command one option for each field of a dataclass.

    An option that is not given arrives as None, so that a preset can tell it from a default; the help shows
    the field's default. The command takes these options as keyword arguments.

    Args:
        config: dataclass whose fields carry ``metadata["help"]`` and, where the field's name and type do not
            say it all, ``flag``, ``shown`` (in place of the default) and ``parser`` with ``metavar``.
        skip: fields that the command declares itself.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(config)
        own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
        options = [_parameter(f, hints[f.name]) for f in fields(config) if f.name not in skip]
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


def _parameter(field: Field, kind: Any) -> inspect.Parameter:
    metadata = field.metadata
    shown = metadata.get("shown", _shown(field.default))
    settings: dict[str, Any] = {"help": metadata["help"], "show_default": shown}
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
