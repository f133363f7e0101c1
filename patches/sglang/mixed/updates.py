"""New gates for a running server, through SGLang's own weight updates (hooks of its two weight updaters).

An update is all gates and nothing else. It is checked as a whole, by every rank, before anything changes; a
refused one leaves gates, version and prefix cache as they were. What the prefix cache holds was computed with
the gates of its time, so an accepted update empties it, whether the client asked for that or not, and an
update is refused while a request holds tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rlkv.errors import DataError, RLKVError

from .gates import NamedTensors, ServedGates, served_gates

logger = logging.getLogger(__name__)

KEPT = "the old gates are kept"


def read_from_disk(
    original: Callable[..., Any], updater: Any, model_path: str, load_format: str, **options: Any
) -> tuple[bool, str]:
    """Read a folder of gates (around ``WeightUpdater.update_weights_from_disk``).

    SGLang's own would load the folder as a model, and on a bad one load the same folder again.
    """
    gates = served_gates(updater.get_model())
    try:
        gates.receive(_read_folder(Path(model_path)))
    except RLKVError as error:
        return False, str(error)
    return True, "Received the gates."


def apply_received(original: Callable[..., Any], manager: Any, request: Any) -> Any:
    """Take what a route received (around ``SchedulerWeightUpdaterManager.update_weights_from_*``)."""
    request.flush_cache = False  # an update that is refused must leave the prefix cache alone
    gates = served_gates(manager.tp_worker.model_runner.model)
    gates.take()
    try:
        result = original(manager, request)
    except Exception as error:  # SGLang asserts what a client can get wrong, such as the name of a group
        result = _answer(request, _one_line(str(error)))
    received = gates.take()
    refusal = None if result.success else _one_line(result.message)
    values = None
    try:
        if refusal is None:
            values = _accepted(gates, received, manager, request.weight_version)
    except RLKVError as error:
        refusal = str(error)
    refusal = _of_any_rank(refusal, manager.tp_cpu_group)
    if refusal is not None or values is None:
        result.success, result.message = False, f"{refusal}; {KEPT}"
        logger.error(result.message)  # clients may show no more than the status
        return result
    if not manager.flush_cache(empty_cache=request.torch_empty_cache):
        raise RuntimeError("rlkv: the prefix cache of an idle server could not be emptied")
    gates.replace(values, request.weight_version)
    result.message = "Replaced the gates and emptied the prefix cache."
    return result


def refuse_route(original: Callable[..., Any], manager: Any, request: Any) -> Any:
    """No gates by the other routes (around ``update_weights_from_tensor`` and ``_ipc``).

    They can write parameters without ``load_weights``, so that nothing would be checked.
    """
    route = "tensors" if "Tensor" in type(request).__name__ else "IPC"
    return _answer(
        request, f"gates: found an update by {route}, expected one from disk or distributed; {KEPT}"
    )


def keep_model_name(original: Callable[..., None], manager: Any, model_path: str, load_format: str) -> None:
    """The model that is served stays the same (around ``TokenizerManager._update_model_path_info``)."""


def _answer(request: Any, message: str) -> Any:
    """The refusal that belongs to a request."""
    from sglang.srt.managers import io_struct

    kind = getattr(io_struct, type(request).__name__.replace("Input", "Output"))
    return kind(success=False, message=message)


def _accepted(gates: ServedGates, received: NamedTensors, manager: Any, version: str | None) -> torch.Tensor:
    values = gates.check(received)
    if not version:
        raise DataError("gates: weight_version is missing, expected the version to tag responses with")
    if not manager.is_fully_idle():
        raise DataError(
            "gates: requests are running, expected none: wait for them, or pause_generation with mode abort"
        )
    return values


def _read_folder(folder: Path) -> NamedTensors:
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError(f"gates: {folder} holds no .safetensors file, expected the gates")
    named: NamedTensors = []
    for file in files:
        try:
            named.extend(load_file(file).items())
        except Exception as error:
            raise DataError(f"gates: cannot read {file}: {_one_line(str(error))}") from error
    return named


def _of_any_rank(refusal: str | None, group: Any) -> str | None:
    """The first refusal of all ranks, so that they agree; None when all accept."""
    refusals = [refusal] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(refusals, refusal, group=group)
    return next((found for found in refusals if found is not None), None)


def _one_line(text: str) -> str:
    return " ".join(text.split())
