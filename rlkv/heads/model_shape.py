"""The shape of the model that a heads file belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlkv.errors import ConfigError
from rlkv.heads.fields import check_integer, check_string, refuse

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class ModelShape:
    """The model that the gates belong to.

    Attributes:
        model_id: name on the hub, or the name a local model goes by.
        revision: commit of the weights, None when unknown.
        model_type: ``model_type`` of the model's config, such as ``"llama"``.
        num_layers: L, decoder layers.
        num_kv_heads: H, KV heads in each layer.
        num_query_heads: attention heads in each layer, a multiple of ``num_kv_heads``.
        head_dim: channels of one head.

    Raises:
        HeadsFileError: a value of the wrong type or out of range.
    """

    model_id: str
    revision: str | None
    model_type: str
    num_layers: int
    num_kv_heads: int
    num_query_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        check_string("model_id", self.model_id)
        check_string("model_type", self.model_type)
        if self.revision is not None:
            check_string("revision", self.revision)
        for name in ("num_layers", "num_kv_heads", "num_query_heads", "head_dim"):
            check_integer(name, getattr(self, name), at_least=1)
        if self.num_query_heads % self.num_kv_heads:
            refuse(
                "num_query_heads", self.num_query_heads, f"a multiple of num_kv_heads, {self.num_kv_heads}"
            )

    @classmethod
    def from_config(
        cls, config: PretrainedConfig, model_id: str | None = None, revision: str | None = None
    ) -> ModelShape:
        """The shape that a transformers config describes.

        Args:
            config: config of a decoder model; ``head_dim`` and the KV heads may be left to their defaults.
            model_id: where the config came from, when not given.
            revision: commit that transformers resolved, when not given.

        Raises:
            ConfigError: the config lacks a size, so it is not that of a decoder model.
        """
        model_id = model_id or config.name_or_path or config.model_type
        for name in ("num_hidden_layers", "num_attention_heads", "hidden_size"):
            if not isinstance(getattr(config, name, None), int):
                raise ConfigError(f"{model_id}: {name} is missing, expected in the config of a decoder model")
        num_query_heads = config.num_attention_heads
        return cls(
            model_id=model_id,
            revision=revision or getattr(config, "_commit_hash", None),
            model_type=config.model_type,
            num_layers=config.num_hidden_layers,
            num_kv_heads=getattr(config, "num_key_value_heads", None) or num_query_heads,
            num_query_heads=num_query_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // num_query_heads,
        )
