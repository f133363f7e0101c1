"""Batched generation with a transformers model, over a full or a hybrid KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from rlkv.cache import HybridCache
from rlkv.errors import ConfigError
from rlkv.kv_meter import KVMeter
from rlkv.window import Window


class CacheRecipe(Protocol):
    """How the cache of a batch is made; its attention is that of ``use_hybrid_cache``."""

    def new_cache(
        self, model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> Cache:
        """An empty cache for these prompts, int64 [B, T] both, padded on the left."""


@dataclass(frozen=True)
class HeadSplit:
    """Which KV heads stream, and over which window; the recipe of a ``HybridCache``.

    Attributes:
        streaming: bool [num_layers, num_kv_heads].
    """

    streaming: torch.Tensor
    window: Window

    def new_cache(
        self, model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> HybridCache:
        return HybridCache(self.streaming, self.window)


@dataclass(frozen=True)
class Completion:
    """One answer of a model.

    Attributes:
        index: position of its prompt in the given list.
        text: decoded without special tokens other than the model's own think tags.
        token_ids: new tokens, the end-of-sequence token included where the model wrote one.
        finish_reason: ``stop`` or, at the token limit, ``length``.
        kv_bytes: most bytes of keys and values that it held at any step (``rlkv.kv_meter``).
        kv_mean_bytes: the same, its mean over the steps.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    kv_bytes: int
    kv_mean_bytes: float


def chat_prompt(tokenizer: PreTrainedTokenizerBase, problem: str) -> str:
    """The text a model sees for a user's message, with the assistant's turn opened.

    Raises:
        ConfigError: the tokenizer has no chat template.
    """
    check_chat_template(tokenizer)
    message = [{"role": "user", "content": problem}]
    return cast(str, tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False))


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a base model.

    Raises:
        ConfigError: the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        name = tokenizer.name_or_path
        raise ConfigError(f"{name}: its tokenizer has no chat template, expected a chat or reasoning model")


@torch.inference_mode()
def generate_batched(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    recipe: CacheRecipe | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> Iterator[list[Completion]]:
    """Answer every prompt, a batch at a time, in the given order.

    Nothing but the arguments decides how tokens are chosen: of the model's generation config, only the ids of
    special tokens count.

    Args:
        model: prepared by ``use_hybrid_cache`` if and only if a recipe is given.
        prompts: rendered by ``chat_prompt``.
        recipe: of the cache; None is the full cache of transformers.
        temperature: 0 is greedy; sampling draws from torch's global generator, seed it before.

    Yields:
        The completions of one batch.
    """
    config = _plain_config(model, temperature, top_p)
    config.max_new_tokens, config.pad_token_id = max_new_tokens, tokenizer.pad_token_id
    for begin in range(0, len(prompts), batch_size):
        texts = list(prompts[begin : begin + batch_size])
        inputs = tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        )
        ids, mask = (inputs[name].to(model.device) for name in ("input_ids", "attention_mask"))
        cache = DynamicCache() if recipe is None else recipe.new_cache(model, ids, mask)
        stops = set(_stop_ids(model))
        meter = KVMeter(cache, mask.sum(dim=-1), stops)
        with _generation_config(model, config):
            tokens = cast(Any, model).generate(
                input_ids=ids, attention_mask=mask, past_key_values=cache, stopping_criteria=[meter]
            )
        answers = tokens[:, ids.shape[1] :].tolist()
        held = zip(meter.peak.tolist(), meter.mean().tolist(), strict=True)
        yield [
            _completion(begin + row, new, stops, tokenizer, *kv_bytes)
            for row, (new, kv_bytes) in enumerate(zip(answers, held, strict=True))
        ]


def cache_bytes(cache: Cache) -> int:
    """Bytes of keys and values in a full or hybrid cache, counted from its tensors."""
    if isinstance(cache, HybridCache):
        return cache.nbytes()
    return sum(cast(Any, layer).keys.nbytes + cast(Any, layer).values.nbytes for layer in cache.layers)


def _plain_config(model: PreTrainedModel, temperature: float, top_p: float) -> GenerationConfig:
    """Greedy at temperature 0, else sampling from the model's own distribution."""
    own = model.generation_config
    config = GenerationConfig(eos_token_id=own.eos_token_id, bos_token_id=own.bos_token_id)
    config.do_sample = bool(temperature)
    if temperature:
        # transformers keeps only the 50 likeliest tokens unless told otherwise.
        config.temperature, config.top_p, config.top_k = temperature, top_p, 0
    return config


@contextmanager
def _generation_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Put a generation config in place of the model's own while the block runs.

    As an argument of ``generate`` it would not do: what it leaves unset comes from the model's own, and a ban
    on words cannot be set to none.
    """
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


def _stop_ids(model: PreTrainedModel) -> list[int]:
    stop = model.generation_config.eos_token_id
    return stop if isinstance(stop, list) else [stop]


def _completion(
    index: int,
    ids: list[int],
    stops: set[int],
    tokenizer: PreTrainedTokenizerBase,
    kv_bytes: int,
    kv_mean_bytes: float,
) -> Completion:
    end = next((i + 1 for i, token in enumerate(ids) if token in stops), None)
    kept = tuple(ids if end is None else ids[:end])
    text = cast(str, tokenizer.decode(list(kept), skip_special_tokens=True))
    finish_reason = "length" if end is None else "stop"
    return Completion(index, text, kept, finish_reason, kv_bytes, kv_mean_bytes)
