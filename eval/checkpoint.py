"""The files of a model: where they are, its config and its tokenizer. Reads no weights."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PretrainedConfig
from transformers import PreTrainedTokenizerBase as Tokenizer

from rlkv.errors import ConfigError
from rlkv.generation import chat_prompt
from rlkv.models import resolve_model


def locate(model: str) -> Path:
    """The folder of a shipped model, of a local one, or of one on the hub, downloaded if need be.

    Raises:
        ConfigError: there is no such model.
    """
    found = resolve_model(model)
    if Path(found).is_dir():
        return Path(found)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(found), ignore_patterns=["*.pth", "original/*", "*.gguf"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        found = f"neither shipped, nor a folder, nor on the hub: {_first_line(error)}"
        raise ConfigError(f"model {model}: {found}") from error


class Checkpoint:
    """A model's folder.

    Attributes:
        folder: of the model's files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def model_config(self) -> PretrainedConfig:
        """The model's config."""
        return self.load(AutoConfig)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, with a padding token."""
        tokenizer = self.load(AutoTokenizer)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def prompt_ids(self, problem: str) -> list[int]:
        """Token ids of a user's message in the model's chat template."""
        return self.tokenizer(chat_prompt(self.tokenizer, problem), add_special_tokens=False)["input_ids"]

    def load(self, loader: Any, **options: Any) -> Any:
        """What an auto class of transformers makes of the folder.

        Raises:
            ConfigError: it cannot be loaded.
        """
        try:
            return loader.from_pretrained(self.folder, **options)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.folder}: cannot load the model: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
