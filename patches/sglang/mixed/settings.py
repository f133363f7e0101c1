"""What ``--rlkv-gates`` asked for, as it travels from the launching process to the schedulers."""

from __future__ import annotations

from dataclasses import dataclass

from rlkv.heads.fields import Gates
from rlkv.window import Window

FLAG = "--rlkv-gates"


@dataclass(frozen=True)
class MixedSettings:
    """The mixed attention that a server starts with; plain values, so that it survives pickling.

    Attributes:
        source: where the gates came from, for people.
        gates: ``[num_layers][num_kv_heads]`` numbers in [0, 1].
        window: of the streaming part of every head.
    """

    source: str
    gates: Gates
    window: Window
