"""Gates and their optimiser's state as safetensors: checkpoints, and what goes to the servers.

Both files hold parameter names, no pickle. A file appears under its name whole or not at all.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from transformers import PreTrainedModel

from rlkv import atomic
from rlkv.attention.gates import load_gates, named_gates
from rlkv.errors import DataError

GATES_FILE = "gates.safetensors"
_LAYER = re.compile(r".*\.layers\.(\d+)\.self_attn\.gate")
OPTIMIZER_FILE = "optimizer.safetensors"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps for a parameter."""


def save_folder(model: PreTrainedModel, optimizer: torch.optim.Optimizer | None, folder: Path) -> None:
    """Write the gates, and the optimiser's moments of them if it is given, into a folder.

    Raises:
        OSError: they could not be stored; files that were there stay as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    gates = named_gates(model)
    _write(folder / GATES_FILE, {name: gate.detach() for name, gate in gates.items()})
    if optimizer is not None:
        state = {
            f"{name}.{moment}": optimizer.state[gate][moment]
            for name, gate in gates.items()
            for moment in MOMENTS
            if gate in optimizer.state
        }
        _write(folder / OPTIMIZER_FILE, state)


def load_folder(model: PreTrainedModel, optimizer: torch.optim.Optimizer | None, folder: Path) -> None:
    """Read what ``save_folder`` wrote.

    Raises:
        DataError: a file is missing, or its names are not this model's.
    """
    for name in (GATES_FILE, *((OPTIMIZER_FILE,) if optimizer is not None else ())):
        if not (folder / name).exists():
            raise DataError(f"{folder}: holds no {name}, expected a checkpoint of the gates")
    load_gates(model, folder / GATES_FILE)
    if optimizer is None:
        return
    stored = load_file(folder / OPTIMIZER_FILE)
    moments = {
        index: {moment: stored[f"{name}.{moment}"] for moment in MOMENTS}
        for index, name in enumerate(named_gates(model))
        if f"{name}.step" in stored
    }
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def read_gates_file(path: Path) -> torch.Tensor:
    """The gates of a file that ``save_folder`` wrote: float32 [num_layers, num_kv_heads].

    Raises:
        DataError: the file holds anything but a gate for each layer.
    """
    stored = load_file(path)
    layers = {int(match[1]): name for name in stored if (match := _LAYER.fullmatch(name))}
    if sorted(layers) != list(range(len(stored))):
        raise DataError(f"{path}: holds {', '.join(stored)}, expected one gate a layer")
    return torch.stack([stored[layers[layer]].float() for layer in range(len(stored))])


def _write(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    atomic.write_bytes(path, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))
