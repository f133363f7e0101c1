"""Batched generation with a transformers model, over a full or a hybrid KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from rlkv.cache import HybridCache
from rlkv.window import Window


@dataclass(frozen=True)
class HeadSplit:
    """Which KV heads stream, and over which window; what a ``HybridCache`` is made from.

    Attributes:
        streaming: bool [num_layers, num_kv_heads].
    """

    streaming: torch.Tensor
    window: Window


@dataclass(frozen=True)
class Completion:
    """One answer of a model.

    Attributes:
        index: position of its prompt in the given list.
        text: decoded without special tokens other than the model's own think tags.
        token_ids: new tokens, the end-of-sequence token included where the model wrote one.
        finish_reason: ``stop`` or, at the token limit, ``length``.
        kv_bytes: bytes of keys and values that its batch's cache held at the end, divided by the batch size.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    kv_bytes: float


def chat_prompt(tokenizer: PreTrainedTokenizerBase, problem: str) -> str:
    """The text a model sees for a user's message, with the assistant's turn opened."""
    message = [{"role": "user", "content": problem}]
    return cast(str, tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False))


@torch.inference_mode()
def generate_batched(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    split: HeadSplit | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> Iterator[list[Completion]]:
    """Answer every prompt, a batch at a time, in the given order.

    Args:
        model: prepared by ``use_hybrid_cache`` if and only if ``split`` is given.
        prompts: rendered by ``chat_prompt``.
        split: the heads that stream; None keeps the full cache of transformers.
        temperature: 0 is greedy; sampling draws from torch's global generator, seed it before.

    Yields:
        The completions of one batch.
    """
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature:
        # transformers keeps only the 50 likeliest tokens unless told otherwise.
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    for begin in range(0, len(prompts), batch_size):
        texts = list(prompts[begin : begin + batch_size])
        inputs = tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        )
        inputs = inputs.to(model.device)
        cache: Cache = DynamicCache() if split is None else HybridCache(split.streaming, split.window)
        tokens = cast(Any, model).generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            past_key_values=cache,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            **sampling,
        )
        answers = tokens[:, inputs["input_ids"].shape[1] :].tolist()
        kv_bytes = cache_bytes(cache) / len(texts)
        stops = set(_stop_ids(model))
        yield [_completion(begin + i, ids, stops, tokenizer, kv_bytes) for i, ids in enumerate(answers)]


def cache_bytes(cache: Cache) -> int:
    """Bytes of keys and values in a full or hybrid cache, counted from its tensors."""
    if isinstance(cache, HybridCache):
        return cache.nbytes()
    return sum(cast(Any, layer).keys.nbytes + cast(Any, layer).values.nbytes for layer in cache.layers)


def _stop_ids(model: PreTrainedModel) -> list[int]:
    stop = model.generation_config.eos_token_id
    return stop if isinstance(stop, list) else [stop]


def _completion(
    index: int, ids: list[int], stops: set[int], tokenizer: PreTrainedTokenizerBase, kv_bytes: float
) -> Completion:
    end = next((i + 1 for i, token in enumerate(ids) if token in stops), None)
    kept = tuple(ids if end is None else ids[:end])
    text = cast(str, tokenizer.decode(list(kept), skip_special_tokens=True))
    return Completion(index, text, kept, "length" if end is None else "stop", kv_bytes)
