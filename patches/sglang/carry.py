"""How the settings get from the flags to every process: on SGLang's ``ServerArgs``, which it pickles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .mixed.settings import MixedSettings
    from .settings import Settings

ATTRIBUTE = "_rlkv"


def carry(server_args: Any, settings: Settings | MixedSettings) -> None:
    """Put the settings on the arguments of a server."""
    # Not a declared field, so SGLang's guard against late changes of the configuration does not apply.
    object.__setattr__(server_args, ATTRIBUTE, settings)


def settings_of(server_args: Any) -> Settings | MixedSettings | None:
    """The settings that a server was started with, None for a stock one."""
    settings: Settings | MixedSettings | None = getattr(server_args, ATTRIBUTE, None)
    return settings
