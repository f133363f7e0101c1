"""Which attention backend serves which device, and the stock backend by whose name it goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from rlkv.errors import UnsupportedError


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
