"""A model that cannot be loaded, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rlkv.errors import ConfigError
from rlkv.models import unknown_name


@contextmanager
def loading(model: str) -> Iterator[None]:
    """Say in one line what transformers says in many.

    Raises:
        ConfigError: the files of ``model`` are missing or are no model.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise ConfigError(f"{model}: cannot be loaded: {why(model, error)}") from error


def why(model: str, error: Exception) -> str:
    """The first line of what transformers says of a model, and whether its name is known at all."""
    return f"{str(error).strip().splitlines()[0].rstrip('.')}{unknown_name(model)}"
