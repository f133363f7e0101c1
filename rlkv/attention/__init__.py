"""Windows, gates and mixed attention for transformers models."""

from rlkv.attention.gates import (
    attach_gates,
    clamp_after_each_step,
    clamp_gates,
    fixed_gates,
    gate_parameters,
    load_gates,
    read_gates,
    save_gates,
    write_gates,
)
from rlkv.attention.layout import SequenceLayout
from rlkv.attention.mixed import mixed_attention, mixed_attention_reference

__all__ = [
    "SequenceLayout",
    "attach_gates",
    "clamp_after_each_step",
    "clamp_gates",
    "fixed_gates",
    "gate_parameters",
    "load_gates",
    "mixed_attention",
    "mixed_attention_reference",
    "read_gates",
    "save_gates",
    "write_gates",
]
