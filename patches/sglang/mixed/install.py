"""The hooks of mixed attention, in the launching process and in the schedulers."""

from __future__ import annotations

from ..backends import backend_of
from ..fail_closed import refuse_on_error
from ..hooks import Hook, put_in_place
from .backends import BACKENDS
from .settings import FLAG

SCHEDULER_UPDATER = "sglang.srt.managers.scheduler_components.weight_updater.SchedulerWeightUpdaterManager"
MODEL_UPDATER = "sglang.srt.model_executor.model_runner_components.weight_updater.WeightUpdater"


def launcher_hooks() -> list[Hook]:
    """Hooks of the process that speaks HTTP."""
    from . import pausing, updates

    tokenizer = "sglang.srt.managers.tokenizer_manager.TokenizerManager"
    return [
        Hook(f"{tokenizer}._update_model_path_info", "around", updates.keep_model_name),
        Hook(f"{tokenizer}.pause_generation", "around", pausing.pause_soon),
    ]


def scheduler_hooks() -> list[Hook]:
    """Hooks of a scheduler process."""
    from . import server_info, updates

    return [
        Hook(f"{MODEL_UPDATER}.update_weights_from_disk", "around", updates.read_from_disk),
        Hook(f"{SCHEDULER_UPDATER}.update_weights_from_disk", "around", updates.apply_received),
        Hook(f"{SCHEDULER_UPDATER}.update_weights_from_distributed", "around", updates.apply_received),
        Hook(f"{SCHEDULER_UPDATER}.update_weights_from_tensor", "around", updates.refuse_route),
        Hook(f"{SCHEDULER_UPDATER}.update_weights_from_ipc", "around", updates.refuse_route),
        Hook("sglang.srt.managers.scheduler.Scheduler.get_internal_state", "after", server_info.add_gates),
    ]


def install_in_launcher() -> None:
    """Prepare the process that speaks HTTP.

    Raises:
        UnsupportedError: a hook could not be put in place.
    """
    with refuse_on_error(FLAG):
        put_in_place(launcher_hooks())


def install_in_scheduler(device: str) -> None:
    """Mix in this process, on a device of SGLang's name.

    Raises:
        UnsupportedError: a hook could not be put in place.
    """
    from sglang.srt.layers.attention.attention_registry import register_attention_backend

    with refuse_on_error(FLAG):
        put_in_place(scheduler_hooks())
        backend = backend_of(device, BACKENDS, FLAG)
        register_attention_backend(backend.replaced)(backend.create)
