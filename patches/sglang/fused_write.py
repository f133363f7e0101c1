"""Keys and values are written by the backend alone (around ``models.utils.enable_fused_set_kv_buffer``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def never(original: Callable[..., bool], forward_batch: Any) -> bool:
    """No: a model that writes them with its rotary embedding, as Qwen3-MoE's, knows of one pool."""
    return False
