"""Names of a package that is not there: they can be imported, and raise when something calls them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn


class Missing:
    """Stands for a function, a class or a constant, and so do its attributes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, attribute: str) -> Missing:
        if attribute.startswith("__"):
            raise AttributeError(f"{self.name} (stand-in) has no attribute {attribute!r}")
        return Missing(f"{self.name}.{attribute}")

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(f"{self.name}: not available on a machine without a GPU")


def names_of(package: str) -> Callable[[str], Missing]:
    """A module's ``__getattr__`` that makes every name up."""

    def find(name: str) -> Missing:
        if name.startswith("__"):
            raise AttributeError(f"module {package!r} (stand-in) has no attribute {name!r}")
        return Missing(f"{package}.{name}")

    return find
