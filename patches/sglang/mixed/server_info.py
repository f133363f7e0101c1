"""``/server_info`` names the gates in use (after ``Scheduler.get_internal_state``)."""

from __future__ import annotations

from typing import Any

from ..carry import settings_of
from .gates import served_gates

KEY, IDLE = "rlkv", "idle"


def add_gates(result: Any, scheduler: Any, *args: Any) -> Any:
    """Add ``rlkv`` to the internal state; the mean is over the parameters of this rank."""
    settings: Any = settings_of(scheduler.server_args)
    gates = served_gates(scheduler.tp_worker.model_runner.model)
    rows = [parameter.tolist() for parameter in gates.parameters.values()]
    of_rank = [gate for row in rows for gate in row]
    result.internal_state[KEY] = {
        "mode": "mixed",
        "gates_file": settings.source,
        "gate_version": gates.version,
        "gate_updates": gates.updates,
        "mean_gate": sum(of_rank) / len(of_rank),
        "sink_size": settings.window.sink_size,
        "recent_size": settings.window.recent_size,
        IDLE: scheduler.is_fully_idle(),
    }
    return result
