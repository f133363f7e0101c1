"""The model in process: found, loaded when first needed, and asked with the cache of a method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from rlkv.cache import use_hybrid_cache
from rlkv.errors import ConfigError
from rlkv.generation import Completion, HeadSplit, chat_prompt, generate_batched
from rlkv.models import resolve_model

from .config import EvalConfig

STOCK_ATTENTION = "sdpa"


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


def choose_device(wanted: str) -> str:
    """``cpu`` or ``cuda``.

    Raises:
        ConfigError: CUDA is wanted and there is none.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise ConfigError("device is 'cuda', expected cpu: torch finds no CUDA device")
    return "cuda" if available and wanted != "cpu" else "cpu"


class Engine:
    """A model that answers prompts with the stock cache or with a hybrid one.

    Attributes:
        folder: of the model's files.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, config: EvalConfig, folder: Path, device: str) -> None:
        self._config = config
        self.folder = folder
        self.device = device

    @cached_property
    def model_config(self) -> PretrainedConfig:
        """The config alone; reads no weights."""
        return self._load(AutoConfig)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, with a padding token."""
        tokenizer = self._load(AutoTokenizer)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model on its device."""
        dtype = getattr(torch, self._config.dtype)
        model = self._load(AutoModelForCausalLM, dtype=dtype, attn_implementation=STOCK_ATTENTION)
        return model.to(self.device).eval()

    def _load(self, loader: Any, **options: Any) -> Any:
        try:
            return loader.from_pretrained(self.folder, **options)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.folder}: cannot load the model: {_first_line(error)}") from error

    def prompt_ids(self, problem: str) -> list[int]:
        """Token ids of a user's message in the model's chat template."""
        return self.tokenizer(chat_prompt(self.tokenizer, problem), add_special_tokens=False)["input_ids"]

    def answer(
        self, problems: Sequence[str], split: HeadSplit | None, begin: int = 0, greedy: bool = False
    ) -> Iterator[list[Completion]]:
        """Answer users' messages, a batch at a time.

        Args:
            problems: messages.
            split: the heads that stream, None for the stock attention and cache.
            begin: the message to begin with.
            greedy: whatever the sampling of the comparison is.

        Yields:
            The completions of one batch; their ``index`` counts within the batch.
        """
        if split is None:
            self.model.set_attn_implementation(STOCK_ATTENTION)
        else:
            use_hybrid_cache(self.model)
        config = self._config
        for start in range(begin, len(problems), config.batch_size):
            # Seeded by batch, so that a resumed run draws what an uninterrupted one would have drawn.
            torch.manual_seed(config.seed * 1_000_003 + start)
            prompts = [
                chat_prompt(self.tokenizer, text) for text in problems[start : start + config.batch_size]
            ]
            yield from generate_batched(
                self.model,
                self.tokenizer,
                prompts,
                max_new_tokens=config.token_limit,
                batch_size=config.batch_size,
                split=split,
                temperature=0.0 if greedy else config.temperature,
                top_p=config.top_p,
            )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
