"""How SGLang learns that the model's cache has two pools (after ``ModelConfig.from_server_args``)."""

from __future__ import annotations

from typing import Any

from .state import state


def declare_two_pools(config: Any, *args: Any, **options: Any) -> None:
    """Take the scheduler's path for models with sliding windows, whose slots are counted as ours are.

    The attention layers themselves get no window: which head has one is the attention backend's business.
    """
    config.is_hybrid_swa = True
    config.is_hybrid_swa_compress = False
    config.is_deepseek_v4_arch = False
    config.sliding_window_size = state().settings.tree_window
    layers = list(range(config.num_hidden_layers))
    config.full_attention_layer_ids = layers
    config.swa_attention_layer_ids = layers
