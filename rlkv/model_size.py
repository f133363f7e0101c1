"""A model's config, and the bytes of its weights, without loading any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlkv.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def model_config(model: str) -> PretrainedConfig:
    """The config of a shipped model, a folder, or a model on the hub.

    Raises:
        ConfigError: there is none.
    """
    from transformers import AutoConfig

    from rlkv.loading import why
    from rlkv.models import resolve_model

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(resolve_model(model))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--model {model}: found no config: {why(model, error)}") from error
    return config


def weight_bytes(config: PretrainedConfig, element_bytes: int) -> int:
    """Bytes of all parameters, counted on a model that is only described."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters()) * element_bytes
