"""The gates of a served model: one float32 parameter a layer, this rank's share of its KV heads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from rlkv.errors import DataError, UnsupportedError

from ..attention_layers import check_layers
from .settings import MixedSettings

ATTRIBUTE = "rlkv_gates"
"""Attribute of the model that holds its ``ServedGates``."""

NamedTensors = list[tuple[str, torch.Tensor]]


class ServedGates:
    """All gates of a model, replaced together or not at all.

    Attributes:
        parameters: by name ``model.layers.N.self_attn.gate``, in layer order; float32 [KV heads of the rank].
        num_kv_heads: of the whole model, over all ranks.
        version: of the gates in use, as the client named them.
        updates: how often they were replaced since the start.
        received: tensors that SGLang received for the model and that were not yet taken.
    """

    def __init__(self, parameters: dict[str, Any], num_kv_heads: int, version: str) -> None:
        self.parameters = parameters
        self.num_kv_heads = num_kv_heads
        self.version = version
        self.updates = 0
        self.received: NamedTensors = []

    def receive(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Stand in for the model's ``load_weights``: keep what arrives, change nothing."""
        self.received.extend(weights)

    def take(self) -> NamedTensors:
        """What arrived since the last call."""
        taken, self.received = self.received, []
        return taken

    def check(self, named: NamedTensors) -> torch.Tensor:
        """Refuse whatever is not a whole set of gates.

        Args:
            named: tensors of all KV heads, over all ranks.

        Returns:
            float32 [num_layers, num_kv_heads] on the CPU.

        Raises:
            DataError: one line with the name, what was found and what was expected.
        """
        tensors = dict(named)
        unknown = [name for name, _ in named if name not in self.parameters]
        if unknown:
            raise DataError(f"gates: found {unknown[0]}, expected {self._all_names()} and nothing else")
        missing = [name for name in self.parameters if name not in tensors]
        if missing:
            raise DataError(f"gates: {missing[0]} is missing, expected {self._all_names()}")
        if len(named) > len(tensors):
            raise DataError(f"gates: found {len(named)} tensors, expected each gate once")
        for name, tensor in tensors.items():
            if list(tensor.shape) != [self.num_kv_heads]:
                raise DataError(
                    f"gates: {name} has shape {list(tensor.shape)}, expected {[self.num_kv_heads]}"
                )
            if not tensor.is_floating_point():
                raise DataError(f"gates: {name} is {tensor.dtype}, expected a floating-point type")
        values = torch.stack([tensors[name].float() for name in self.parameters]).cpu()
        for name, row in zip(self.parameters, values, strict=True):
            for head, gate in enumerate(row.tolist()):
                if not 0 <= gate <= 1:
                    raise DataError(f"gates: {name}[{head}] is {gate}, expected a number in [0, 1]")
        return values

    @torch.no_grad()
    def replace(self, values: torch.Tensor, version: str) -> None:
        """Use other gates, float32 [num_layers, num_kv_heads] that passed ``check``."""
        for parameter, row in zip(self.parameters.values(), values, strict=True):
            parameter.weight_loader(parameter, row)
        self.version = version
        self.updates += 1

    def _all_names(self) -> str:
        return f"the {len(self.parameters)} gates model.layers.N.self_attn.gate"


class Shard(NamedTuple):
    """The KV heads of one rank, the same that SGLang gives its key projection."""

    heads: slice

    @classmethod
    def of(cls, num_kv_heads: int, rank: int, size: int) -> Shard:
        """With more ranks than KV heads, neighbouring ranks hold copies of one head."""
        count = max(1, num_kv_heads // size)
        first = rank // max(1, size // num_kv_heads) * count
        return cls(slice(first, first + count))

    @torch.no_grad()
    def load(self, parameter: torch.Tensor, loaded: torch.Tensor) -> None:
        """SGLang's ``weight_loader`` of a gate: [KV heads of the model] into [KV heads of the rank]."""
        parameter.copy_(loaded[self.heads])


def served_gates(model: Any) -> ServedGates:
    """The gates of a model that ``attach`` was called on."""
    gates: ServedGates = getattr(model, ATTRIBUTE)
    return gates


def attach(model: Any, settings: MixedSettings, tp_rank: int, tp_size: int, version: str) -> None:
    """Register the gates on a model of SGLang's, and let no weight update reach anything else.

    Args:
        model: changed in place: ``model.layers.N.self_attn`` gets a parameter ``gate``.
        settings: gates to begin with.
        tp_rank, tp_size: of the ranks that share the KV heads.
        version: of these gates.

    Raises:
        UnsupportedError: the model's attention is not one plain ``RadixAttention`` in each ``self_attn``.
    """
    layers = check_layers(model, len(settings.gates))
    expected = {layer: f"model.layers.{layer}.self_attn.attn" for layer in range(len(settings.gates))}
    if layers != expected:
        found = ", ".join(list(layers.values())[:1]) or "none"
        raise UnsupportedError(
            f"{type(model).__name__}: found attention layers such as {found}, expected them to be "
            "model.layers.N.self_attn.attn"
        )
    device = next(model.parameters()).device
    shard = Shard.of(len(settings.gates[0]), tp_rank, tp_size)
    parameters = {}
    for layer, attention in expected.items():
        parent: Any = model.get_submodule(attention.rpartition(".")[0])
        row = torch.tensor(settings.gates[layer], dtype=torch.float32, device=device)
        parent.gate = nn.Parameter(row[shard.heads].clone(), requires_grad=False)
        parent.gate.weight_loader = shard.load
        parameters[f"model.layers.{layer}.self_attn.gate"] = parent.gate
    gates = ServedGates(parameters, len(settings.gates[0]), version)
    setattr(model, ATTRIBUTE, gates)
    model.load_weights = gates.receive
