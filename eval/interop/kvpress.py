"""A heads file as a press of kvpress, to try RLKV with that project's pipeline and presses beside it.

Needs kvpress and a transformers that it runs with (``make kvpress``); nothing else of rlkv imports this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from kvpress import BasePress, PrefillDecodingPress
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rlkv.attention.gates import attention_modules, fixed_gates
from rlkv.attention.registry import MIXED
from rlkv.cache import HYBRID
from rlkv.errors import ConfigError, UnsupportedError
from rlkv.heads import HeadsFile, resolve, streaming_mask
from rlkv.window import Window

for _name in (MIXED, HYBRID):
    # On import, kvpress wraps all attention functions that it finds, to hide keys that its presses name. Ours
    # are named no keys, and are called with other arguments: those that were there before are unwrapped.
    with suppress(KeyError):
        del ALL_ATTENTION_FUNCTIONS[_name]


@dataclass
class RLKVPress(PrefillDecodingPress):
    """While the press is on, the heads of lowest gates attend to sinks and recent tokens only.

    It masks and saves no memory: all keys stay in the cache, as with kvpress's other head-wise presses.
    ``rlkv.cache.HybridCache`` and ``rlkv serve`` give the same tokens and really free the memory.

    Other presses drop tokens when the prompt has been read. Here the window holds for every token, those of
    the prompt too, and moves on while decoding (``rlkv.window``); therefore the press switches the model's
    attention for as long as it is on. It is a ``PrefillDecodingPress`` because kvpress's pipeline keeps these
    on while it decodes; the pipeline asks them one question a call.

    Attributes:
        heads: path of a heads file, or the name of one that ships with rlkv.
        sparsity: fraction of the KV heads that stream; None takes the file's recommendation.
        window: of the streaming heads; None takes the file's serving window.
        heads_file: the file as read.
        streaming: bool [num_layers, num_kv_heads], True where the head streams.
        length: tokens of the longest row since the press was last switched on, prompt and answer together.

    Raises:
        HeadsFileError: the file is missing or malformed; once switched on, it is not the model's.
        ConfigError: a sparsity outside [0, 1].
        UnsupportedError: once switched on, the model's attention cannot be masked, or its cache lacks tokens.

    Example:
        >>> pipe = KVPressTextGenerationPipeline(model=model, tokenizer=tokenizer)
        >>> pipe(context, question=question, press=RLKVPress("heads.json", sparsity=0.5))
        >>> with press(model):
        ...     model.generate(**inputs)
    """

    heads: str | Path
    sparsity: float | None = None
    window: Window | None = None
    heads_file: HeadsFile = field(init=False, repr=False)
    streaming: torch.Tensor = field(init=False, repr=False, compare=False)
    length: int = field(init=False, repr=False, compare=False, default=0)
    # The parent's own fields: this press is one thing in both phases.
    prefilling_press: BasePress | None = field(init=False, repr=False, default=None)
    decoding_press: BasePress | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        self.heads_file = HeadsFile.read(resolve(self.heads))
        if self.sparsity is None:
            self.sparsity = self.heads_file.recommended_sparsity
        if self.window is None:
            self.window = self.heads_file.serving_window
        for name, kind, expected in (
            ("sparsity", int | float, "a number in [0, 1]"),
            ("window", Window, "a Window"),
        ):
            if not isinstance(getattr(self, name), kind):
                raise ConfigError(f"RLKVPress: {name} is {getattr(self, name)!r}, expected {expected}")
        self.streaming = streaming_mask(self.heads_file.gates, self.sparsity)

    @property
    def compression_ratio(self) -> float:
        """Share of the keys and values that the method does without, in a row of ``length`` tokens.

        Raises:
            UnsupportedError: nothing has passed through the model yet.
        """
        if not self.length:
            raise UnsupportedError(
                "RLKVPress: no tokens have passed, expected some before asking for the ratio"
            )
        return self.compression_ratio_at(self.length)

    def compression_ratio_at(self, length: int) -> float:
        """The same for a row of any length, in tokens; it grows towards the share of streaming heads."""
        dropped = max(0, length - cast(Window, self.window).size)
        return float(self.streaming.float().mean()) * dropped / length

    def post_init_from_model(self, model: PreTrainedModel) -> None:
        """Refuse a model that the heads file is not for."""
        self.heads_file.check_model(model.config, self.heads)

    @contextmanager
    def __call__(self, model: PreTrainedModel) -> Iterator[None]:
        """Switch the press on for as long as the block runs."""
        self.post_init_from_model(model)
        self.length = 0
        with fixed_gates(model, (~self.streaming).float(), cast(Window, self.window)):
            hook = attention_modules(model)[0].register_forward_hook(self.forward_hook, with_kwargs=True)
            try:
                yield
            finally:
                hook.remove()

    def forward_hook(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """Check and measure a pass; its attention is already that of the press.

        Raises:
            UnsupportedError: another press calls this one, or the cache does not hold every token of the row.
        """
        if cast(Any, module).config._attn_implementation != MIXED:
            raise UnsupportedError("RLKVPress: found inside another press, expected alone: with press(model)")
        self.length = kwargs["attention_mask"].key_length
        cache, end = kwargs["past_key_values"], int(kwargs["position_ids"].max()) + 1
        held = self.length if cache is None else int(cache.get_seq_length(module.layer_idx))
        if not end <= held == self.length:
            raise UnsupportedError(
                f"RLKVPress: found a cache of {self.length} places with {held} tokens at position {end - 1}, "
                "expected one that grows and holds every token"
            )
        return output
