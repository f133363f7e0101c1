"""The recipe of a token-dropping cache, and hyper-parameters given as text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from rlkv.errors import ConfigError

from . import TOKEN_DROPPERS
from .base import TokenDropper
from .budget import Budget
from .cache import DroppingCache


@dataclass(frozen=True)
class Dropping:
    """A method at a budget; makes the cache of a batch (a ``CacheRecipe``).

    Attributes:
        name: of the method, which tells methods of the same hyper-parameters apart.
    """

    name: str
    method: TokenDropper
    budget: Budget

    def new_cache(
        self, model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> DroppingCache:
        return DroppingCache(self.method, self.budget, model, input_ids, attention_mask)


def droppers(options: Iterable[str]) -> dict[str, TokenDropper]:
    """All methods by name, with some of their hyper-parameters changed.

    Args:
        options: ``METHOD.NAME=NUMBER`` each.

    Raises:
        ConfigError: no such method or hyper-parameter, or no number of its kind and range.
    """
    found = {name: method() for name, method in TOKEN_DROPPERS.items()}
    for text in options:
        path, equals, value = text.partition("=")
        name, dot, option = path.partition(".")
        if not (equals and dot):
            raise ConfigError(f"method_options: found {text!r}, expected METHOD.NAME=NUMBER")
        if name not in found:
            raise ConfigError(f"method_options: method is {name!r}, expected one of {', '.join(found)}")
        defaults = {f.name: getattr(found[name], f.name) for f in fields(found[name])}
        settable = {key: kind for key, kind in defaults.items() if isinstance(kind, int | float)}
        if option not in settable:
            raise ConfigError(f"method_options: {name} has {', '.join(settable)}, found {option!r}")
        kind = type(settable[option])
        try:
            number = kind(value)
        except ValueError:
            raise ConfigError(f"method_options: {path} is {value!r}, expected a number") from None
        try:
            found[name] = replace(found[name], **cast(Any, {option: number}))
        except ConfigError as error:
            raise ConfigError(f"method_options: {name}.{error}") from None
    return found
