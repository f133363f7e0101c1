"""Hyper-parameters in their range. Messages name the field; ``rlkv_eval.rivals.recipe`` adds the method."""

from __future__ import annotations

from rlkv.errors import ConfigError


def check_at_least(name: str, value: int, smallest: int) -> None:
    """Refuse a number that is too small.

    Raises:
        ConfigError: it is.
    """
    if value < smallest:
        raise ConfigError(f"{name} is {value}, expected at least {smallest}")


def check_share(name: str, value: float) -> None:
    """Refuse what is not in [0, 1], NaN among it.

    Raises:
        ConfigError: it is not.
    """
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} is {value}, expected a number in [0, 1]")


def check_kernel(value: int) -> None:
    """Refuse a width of pooling that has no middle: its output would have another length than its input.

    Raises:
        ConfigError: it is even or below 1.
    """
    if value < 1 or value % 2 == 0:
        raise ConfigError(f"kernel is {value}, expected an odd number of at least 1")
