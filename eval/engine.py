"""The model in process: loaded when first needed, and asked with the cache of a method."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlkv.cache import use_hybrid_cache
from rlkv.errors import ConfigError
from rlkv.generation import CacheRecipe, Completion, chat_prompt, generate_batched
from rlkv.heads import package_versions

from .answer import Answer
from .checkpoint import Checkpoint
from .config import EvalConfig

STOCK_ATTENTION = "sdpa"

PACKAGES = ("rlkv", "torch", "transformers", "math-verify")


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
    """A model that answers prompts with the stock cache or with another one (an ``Answerer``).

    Attributes:
        unit: the batch size.
        checkpoint: the model's files.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, config: EvalConfig, checkpoint: Checkpoint) -> None:
        self._config = config
        self.checkpoint = checkpoint
        self.device = choose_device(config.device)
        self.unit = config.batch_size

    def settings(self) -> dict[str, Any]:
        """What changes an answer: rounding depends on the batch, drawing too."""
        return {
            "name": "transformers",
            "dtype": self._config.dtype,
            "device": self.device,
            "batch_size": self.unit,
            "packages": package_versions(*PACKAGES),
        }

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model on its device."""
        dtype = getattr(torch, self._config.dtype)
        model = self.checkpoint.load(AutoModelForCausalLM, dtype=dtype, attn_implementation=STOCK_ATTENTION)
        return model.to(self.device).eval()

    def answer(
        self,
        problems: Sequence[str],
        recipe: CacheRecipe | None,
        max_new_tokens: int,
        done: Collection[int] = (),
        greedy: bool = False,
    ) -> Iterator[list[Answer]]:
        """Answer users' messages, a batch at a time, in their order; see ``Answerer``.

        Args:
            problems: messages.
            recipe: of the cache, None for the stock one.
            max_new_tokens: token limit of an answer.
            done: the first messages, whole batches of them.
            greedy: whatever the sampling of the comparison is.
        """
        if len(done) == len(problems):
            return  # and no reason to load the model
        if recipe is None:
            self.model.set_attn_implementation(STOCK_ATTENTION)
        else:
            use_hybrid_cache(self.model)
        config, tokenizer = self._config, self.checkpoint.tokenizer
        temperature = 0.0 if greedy else config.temperature
        for start in range(len(done), len(problems), config.batch_size):
            # Seeded by batch, so that a resumed run draws what an uninterrupted one would have drawn.
            seed = config.seed * 1_000_003 + start
            torch.manual_seed(seed)
            batch = problems[start : start + config.batch_size]
            completions = generate_batched(
                self.model,
                tokenizer,
                [chat_prompt(tokenizer, text) for text in batch],
                max_new_tokens=max_new_tokens,
                batch_size=config.batch_size,
                recipe=recipe,
                temperature=temperature,
                top_p=config.top_p,
            )
            yield self._answers(start, batch, next(completions), seed if temperature else None)

    def close(self) -> None:
        """Free the model's memory; the next question loads it again."""
        if self.__dict__.pop("model", None) is not None:
            gc.collect()  # modules refer to each other in cycles
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # or torch would keep it from a server

    def _answers(
        self, start: int, batch: Sequence[str], completions: list[Completion], seed: int | None
    ) -> list[Answer]:
        lengths = [len(self.checkpoint.prompt_ids(text)) for text in batch]
        return [
            Answer(
                index=start + completion.index,
                text=completion.text,
                token_ids=completion.token_ids,
                prompt_length=length,
                finish_reason=completion.finish_reason,
                seed=seed,
                kv_bytes=completion.kv_bytes,
                kv_mean_bytes=completion.kv_mean_bytes,
                cached_tokens=length + len(completion.token_ids) - 1,
            )
            for completion, length in zip(completions, lengths, strict=True)
        ]
