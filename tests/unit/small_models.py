"""Small models with random weights, and the mask reference that the hybrid cache is held against."""

from __future__ import annotations

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from rlkv.attention import attach_gates, write_gates
from rlkv.window import Window

FAMILIES: dict[str, type[PretrainedConfig]] = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}
VOCAB_SIZE = 97
NUM_LAYERS, NUM_KV_HEADS = 3, 2
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": NUM_KV_HEADS,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,  # a generation runs to its limit
    # Wide weights: attention looks at some keys more than at others, and logits are far apart.
    "initializer_range": 0.3,
}


def small_model(family: str = "qwen3", seed: int = 0, **changes: object) -> PreTrainedModel:
    """A random model in float32; the same arguments always give the same one."""
    config = FAMILIES[family](**{**SIZES, **changes})
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def make_mask_reference(model: PreTrainedModel, streaming: torch.Tensor, window: Window) -> PreTrainedModel:
    """Turn a model into the reference of a hybrid cache: gates 0 or 1 over masks, nothing forgotten."""
    attach_gates(model, window)
    write_gates(model, (~streaming).float())
    return model


def random_tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    """Token ids without the padding token."""
    return torch.randint(1, VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(seed))


def pad_left(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids and attention mask [B, T] of sequences of different lengths."""
    width = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(width) >= width - lengths[:, None]).long()
    return ids, mask
