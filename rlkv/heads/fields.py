"""Checks of single fields of a heads file.

Each refuses with one line that begins with the field's name, so that a caller can put the enclosing
object and the file in front of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from rlkv.errors import HeadsFileError

Gates = tuple[tuple[float, ...], ...]
"""Gates of a model, ``[num_layers][num_kv_heads]``, each a number in [0, 1]."""

_LONGEST_SHOWN = 60


@contextmanager
def within(prefix: str) -> Iterator[None]:
    """Put ``prefix`` in front of every refusal raised inside."""
    try:
        yield
    except HeadsFileError as error:
        raise HeadsFileError(f"{prefix}{error}") from None


def refuse(field: str, found: object, expected: str) -> NoReturn:
    """Raise the one line that names the field, what was found and what was expected."""
    raise HeadsFileError(f"{field} is {_shown(found)}, expected {expected}")


def check_object(field: str, value: object, names: Sequence[str]) -> dict[str, Any]:
    """``value`` if it is a JSON object with exactly the fields ``names``.

    An unknown field is refused too: in a file of a known version it can only be a misspelt one.
    """
    if not isinstance(value, dict):
        refuse(field or "the top level", value, "an object")
    prefix = f"{field}." if field else ""
    for name in names:
        if name not in value:
            raise HeadsFileError(f"{prefix}{name} is missing, expected in every file of this format_version")
    for name in value:
        if name not in names:
            known = ", ".join(names)
            raise HeadsFileError(f"{prefix}{_plain(name)} is an unknown field, expected only {known}")
    return value


def check_list(field: str, value: object) -> list[Any]:
    """``value`` if it is a JSON array."""
    if not isinstance(value, list):
        refuse(field, value, "an array")
    return value


def check_integer(field: str, value: object, at_least: int) -> None:
    """Refuse all but an integer that is large enough; ``true`` and ``32.0`` are none."""
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        refuse(field, value, f"an integer of at least {at_least}")


def check_fraction(field: str, value: object) -> float:
    """``value`` as a float, if it is a number in [0, 1]."""
    expected = "a number in [0, 1]"
    if not isinstance(value, int | float) or isinstance(value, bool):
        refuse(field, value, expected)
    if not 0 <= value <= 1:  # NaN fails every comparison, so it is refused here too
        refuse(field, value, expected)
    return float(value)


def check_string(field: str, value: object) -> None:
    """Refuse all but a string with something in it."""
    if not isinstance(value, str) or not value:
        refuse(field, value, "a non-empty string")


def check_gates(gates: object, num_layers: int, num_kv_heads: int) -> Gates:
    """The gates as tuples of floats, if they are ``[num_layers][num_kv_heads]`` numbers in [0, 1]."""
    rows = _sequence("gates", gates, num_layers, "rows", "model.num_layers")
    return tuple(
        tuple(
            check_fraction(f"gates[{layer}][{head}]", gate)
            for head, gate in enumerate(
                _sequence(f"gates[{layer}]", row, num_kv_heads, "values", "model.num_kv_heads")
            )
        )
        for layer, row in enumerate(rows)
    )


def _sequence(field: str, value: object, length: int, unit: str, source: str) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        refuse(field, value, "an array")
    if len(value) != length:
        raise HeadsFileError(f"{field} has {len(value)} {unit}, expected {length} as in {source}")
    return value


def _shown(value: object) -> str:
    """A value on one short line, as a reader of JSON would know it."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, dict | list):
        return f"an {'object' if isinstance(value, dict) else 'array'} of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and value.bit_length() > 4 * _LONGEST_SHOWN:
        return f"an integer of over {_LONGEST_SHOWN} digits"  # too long for repr, and for a line
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _plain(name: str) -> str:
    """An unknown field's name: bare when it reads like one, else quoted so that the line stays one line."""
    return name if name.isidentifier() and len(name) <= _LONGEST_SHOWN else _shown(name)
