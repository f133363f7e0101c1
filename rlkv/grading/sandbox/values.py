"""Values on the pipe between the tests and the model's code: plain data, or the number of an object.

An encoded value is JSON: null, booleans, strings and floats as they are, everything else a list of a tag and
its content. What is not plain data stays in the process of the code, and travels as its number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MAX_MESSAGE_BYTES = 32 * 1024**2

_SEQUENCES: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def encode(value: Any, keep: Callable[[Any], int]) -> Any:  # noqa: PLR0911 - a return a kind of value
    """A value as JSON; subclasses become what they are built on.

    Args:
        value: anything.
        keep: gives the number of an object that is not plain data, or raises.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int):  # hexadecimal: decimal digits are limited, and slow for large numbers
        return ["int", format(int.__index__(value), "x")]
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", bytes(value).hex()]
    if isinstance(value, dict):
        return ["dict", [[encode(k, keep), encode(v, keep)] for k, v in dict.items(value)]]
    for tag, kind in _SEQUENCES.items():
        if isinstance(value, kind):
            return [tag, [encode(item, keep) for item in kind.__iter__(value)]]
    return ["object", keep(value)]


def decode(message: Any, find: Callable[[int], Any]) -> Any:  # noqa: PLR0911 - a return a kind of value
    """The value of an encoded one.

    Args:
        message: from ``encode``, or anything that a hostile process sent instead.
        find: gives what stands for an object of that number.

    Raises:
        ValueError, TypeError, RecursionError: it is no encoded value.
    """
    if message is None or isinstance(message, (bool, str, float)):
        return message
    tag, content = message
    if tag == "int":
        return int(content, 16)
    if tag == "complex":
        return complex(*content)
    if tag == "bytes":
        return bytes.fromhex(content)
    if tag == "dict":
        return {decode(k, find): decode(v, find) for k, v in content}
    if tag == "object":
        return find(content)
    if tag not in _SEQUENCES:
        raise ValueError(f"unknown tag {tag!r}")
    return _SEQUENCES[tag](decode(item, find) for item in content)
