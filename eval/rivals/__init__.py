"""Token-dropping methods by name, and their hyper-parameters as text.

Each is written after its paper, for batches of left-padded rows and with the memory really freed. kvpress has
most of them for one sequence at a time, but its last release (0.5.5) runs with transformers below 5.3 only.
"""

from __future__ import annotations

from .base import TokenDropper
from .h2o import H2O
from .kvzip import KVzip
from .r_kv import RKV
from .random_attention import RandomAttention
from .snapkv import SnapKV
from .streaming_llm import StreamingLLM

TOKEN_DROPPERS: dict[str, type[TokenDropper]] = {
    "h2o": H2O,
    "snapkv": SnapKV,
    "streaming-llm": StreamingLLM,
    "kvzip": KVzip,
    "r-kv": RKV,
    "random-attention": RandomAttention,
}
