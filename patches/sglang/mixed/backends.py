"""Which attention backend mixes on which device, and the stock backend by whose name it goes."""

from __future__ import annotations

from typing import Any

from ..backends import Backend


def _torch(model_runner: Any) -> Any:
    from .attention_torch import MixedTorchBackend

    return MixedTorchBackend(model_runner)


def _flashinfer(model_runner: Any) -> Any:
    from .attention_flashinfer import MixedFlashInferBackend

    return MixedFlashInferBackend(model_runner)


BACKENDS = {
    # That no Triton kernel may run is decided by this name.
    "cpu": Backend("torch_native", _torch),
    "cuda": Backend("flashinfer", _flashinfer),
}
