"""What ``--rlkv-*`` asked for, as it travels from the launching process to the schedulers."""

from __future__ import annotations

from dataclasses import dataclass

from rlkv.planner import CacheShape
from rlkv.window import Window

REQUEST_TOKENS = 2048
"""Tokens that a running request is expected to hold when the user does not say."""


@dataclass(frozen=True)
class Settings:
    """The hybrid cache that a server is to use; plain values, so that it survives pickling.

    Attributes:
        heads_file: where the gates came from, for people.
        model_id: model that the gates belong to, for people.
        sparsity: fraction of KV heads that stream.
        window: of the streaming heads.
        streaming: ``[num_layers][num_kv_heads]``, True where the head streams.
        request_tokens: tokens that a running request is expected to hold, which splits the memory.
    """

    heads_file: str
    model_id: str
    sparsity: float
    window: Window
    streaming: tuple[tuple[bool, ...], ...]
    request_tokens: int

    def cache_shape(self, head_dim: int, element_bytes: int) -> CacheShape:
        """Heads of both kinds in each layer, and their bytes."""
        return CacheShape.of(self.streaming, head_dim, element_bytes)

    def sink_slots(self, page_size: int) -> int:
        """Slots that the sinks of a sequence occupy: whole pages, because pages are freed whole."""
        return -(-self.window.sink_size // page_size) * page_size

    @property
    def tree_window(self) -> int:
        """Tokens before the next one that its streaming heads see as recent; at least 1 for SGLang's rules.

        A token sees W recent tokens, its own included, so W - 1 earlier ones must be there.
        """
        return max(1, self.window.recent_size - 1)
