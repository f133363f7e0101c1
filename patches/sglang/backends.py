"""Which attention backend serves which device, and by what names SGLang knows ours."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

from rlkv.errors import ConfigError, UnsupportedError

PREFIX_CACHE = "rlkv"
"""Name of the prefix cache in SGLang's registry. A process in which this plugin is not loaded does not
know it, so that a server that was asked for the hybrid cache cannot start there."""


class Backend(NamedTuple):
    """An attention backend of ours.

    Attributes:
        replaced: name of the stock backend that it stands in for; SGLang decides by the name.
        create: makes it from SGLang's ``ModelRunner``.
    """

    replaced: str
    create: Callable[[Any], Any]


def _torch(model_runner: Any) -> Any:
    from .attention_torch import HybridTorchBackend

    return HybridTorchBackend(model_runner)


def _flashinfer(model_runner: Any) -> Any:
    from .attention_flashinfer import HybridFlashInferBackend

    return HybridFlashInferBackend(model_runner)


BACKENDS = {
    # That no Triton kernel may run is decided by this name.
    "cpu": Backend("torch_native", _torch),
    "cuda": Backend("flashinfer", _flashinfer),
}


def backend_of(device: str, among: dict[str, Backend] = BACKENDS, flag: str = "--rlkv-heads") -> Backend:
    """The backend of a device.

    Raises:
        UnsupportedError: there is none.
    """
    if device not in among:
        expected = " or ".join(among)
        raise UnsupportedError(
            f"--device: found {device!r} with {flag}, expected {expected}, which have an attention backend"
        )
    return among[device]


def choose_backends(namespace: argparse.Namespace, replaced: str, flag: str = "--rlkv-heads") -> None:
    """Name our prefix cache, and the attention backend that ours stands in for on this device.

    Raises:
        ConfigError: the flags name others.
    """
    from .refusals import flag_of

    attention = ("attention_backend", "prefill_attention_backend", "decode_attention_backend")
    wanted = {"radix_cache_backend": PREFIX_CACHE, **dict.fromkeys(attention, replaced)}
    for name, value in wanted.items():
        found = getattr(namespace, name)
        if found not in (None, value):
            raise ConfigError(f"{flag_of(name)}: found {found!r} with {flag}, expected none or {value!r}")
    namespace.radix_cache_backend = PREFIX_CACHE
    namespace.attention_backend = replaced
