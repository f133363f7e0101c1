"""The hybrid KV cache for ``generate()``: full heads keep every token, streaming heads S + W of them.

The memory is really saved: a layer stores its full heads in one growing buffer and its streaming heads in
S + W slots (``rlkv.window_slots``). Attention over slots does not depend on their order, and a slot is only
overwritten by the token that pushes its content out of the window, so the result equals the mask's
(``rlkv.window``) exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from rlkv.attention.gates import attention_modules
from rlkv.attention.layout import SequenceLayout
from rlkv.attention.mixed import grouped_attention
from rlkv.attention.registry import layout_mask, resolve_layout, tokens_of_pass
from rlkv.errors import UnsupportedError
from rlkv.kv_meter import token_bytes
from rlkv.window import Window
from rlkv.window_slots import WindowSlots

HYBRID = "rlkv_hybrid"

GROWTH = 64
"""Tokens by which a full head's buffer grows: one copy of the history in 64 steps instead of one a step."""


class HybridCache(Cache):
    """A cache for one ``generate()`` call of a model prepared by ``use_hybrid_cache``.

    Args:
        streaming: bool [num_layers, num_kv_heads], True where the head streams
            (``rlkv.heads.streaming_mask``).
        window: window of the streaming heads.

    Example:
        >>> use_hybrid_cache(model)
        >>> cache = HybridCache(streaming_mask(heads.gates, 0.5), heads.serving_window)
        >>> model.generate(**inputs, past_key_values=cache)
    """

    def __init__(self, streaming: torch.Tensor, window: Window) -> None:
        if streaming.ndim != 2 or streaming.dtype != torch.bool:
            raise UnsupportedError(
                f"hybrid cache: the mask is {streaming.dtype} {list(streaming.shape)}, expected torch.bool "
                "[num_layers, num_kv_heads]"
            )
        self.slots = WindowSlots(window)
        self.hybrid_layers = [HybridLayer(row, self.slots, len(streaming)) for row in streaming]
        super().__init__(layers=list(self.hybrid_layers))

    def nbytes(self) -> int:
        """Bytes of keys and values that the cache holds on its device."""
        return sum(layer.nbytes() for layer in self.hybrid_layers)

    def bytes_in_use(self, lengths: torch.Tensor) -> torch.Tensor:
        """int64 [B]: bytes that each row's own tokens use, given how many it has passed."""
        return cast(torch.Tensor, sum(layer.bytes_in_use(lengths) for layer in self.hybrid_layers))

    def reset(self) -> None:
        """Let go of everything; the next pass may have a batch of another size."""
        super().reset()
        self.slots.clear()

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.slots.map_batch(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self.slots.map_batch(lambda tensor: tensor[indices])

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        super().reorder_cache(cast(torch.LongTensor, beam_idx))
        self.slots.map_batch(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))


@dataclass
class NewTokens:
    """Keys and values of this pass on their way from ``Cache.update`` to the attention function.

    transformers hands one to the other untouched; only the attention function knows the padding, which
    decides the slots of streaming heads.
    """

    layer: HybridLayer
    key: torch.Tensor
    value: torch.Tensor


class HybridLayer(CacheLayerMixin):
    """One layer's keys and values.

    Buffers, all [B, heads, slots, D]: ``keys``/``values`` of the full heads (the first ``length`` slots are
    in use), ``window_keys``/``window_values`` of the streaming heads.
    """

    is_sliding = False
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, streaming: torch.Tensor, slots: WindowSlots, num_layers: int) -> None:
        super().__init__()
        self.slots = slots
        self.num_layers = num_layers
        self.num_kv_heads = len(streaming)
        self.full_heads = (~streaming).nonzero().flatten()
        self.streaming_heads = streaming.nonzero().flatten()
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        batch, num_kv_heads, _, head_dim = key_states.shape
        if num_kv_heads != self.num_kv_heads:
            raise UnsupportedError(
                f"hybrid cache: the model has {num_kv_heads} KV heads, the mask is for {self.num_kv_heads}"
            )
        self.dtype, self.device = key_states.dtype, key_states.device
        self.full_heads = self.full_heads.to(self.device)
        self.streaming_heads = self.streaming_heads.to(self.device)
        self.keys = key_states.new_empty(batch, len(self.full_heads), 0, head_dim)
        self.values = torch.empty_like(self.keys)
        size = self.slots.window.size
        self.window_keys = key_states.new_zeros(batch, len(self.streaming_heads), size, head_dim)
        self.window_values = torch.zeros_like(self.window_keys)
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Take this pass's keys and values; ``hybrid_attention_forward`` stores and reads them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = NewTokens(self, key_states, value_states)
        return new, new

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        layout: SequenceLayout,
    ) -> torch.Tensor:
        """Store the new tokens and attend to what each head kept.

        Args:
            query: [B, Hq, Tq, D].
            key, value: [B, Hkv, Tq, D], this pass's.
            layout: of the whole row, earlier passes included.

        Returns:
            [B, Hq, Tq, D].
        """
        group = query.shape[1] // self.num_kv_heads
        grouped = query.unflatten(1, (self.num_kv_heads, group))
        self.length += key.shape[2]
        out = torch.empty_like(grouped)
        for heads, attend in (
            (self.full_heads, self._attend_full),
            (self.streaming_heads, self._attend_streaming),
        ):
            if len(heads):
                part = attend(
                    grouped[:, heads].flatten(1, 2), key[:, heads], value[:, heads], scaling, layout
                )
                out[:, heads] = part.unflatten(1, (len(heads), group))
        return out.flatten(1, 2)

    def _attend_full(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        layout: SequenceLayout,
    ) -> torch.Tensor:
        self.keys, self.values = (
            _append(buffer, self.length, new) for buffer, new in ((self.keys, key), (self.values, value))
        )
        keys, values = self.keys[:, :, : self.length], self.values[:, :, : self.length]
        mask = None if layout.is_plain_causal else layout.full_mask()
        return grouped_attention(query, keys, values, mask, scaling)

    def _attend_streaming(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        layout: SequenceLayout,
    ) -> torch.Tensor:
        step = self.slots.enter(layout, len(key))
        keys, values = self.window_keys, self.window_values
        if not step.writes_first:
            keys, values = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
        self.window_keys[step.rows, :, step.slots] = key[step.rows, :, step.tokens]
        self.window_values[step.rows, :, step.slots] = value[step.rows, :, step.tokens]
        return grouped_attention(query, keys, values, step.mask, scaling)

    def nbytes(self) -> int:
        """Bytes of this layer's keys and values."""
        if not self.is_initialized:
            return 0
        return sum(t.nbytes for t in (self.keys, self.values, self.window_keys, self.window_values))

    def bytes_in_use(self, lengths: torch.Tensor) -> torch.Tensor:
        """int64 [B]: this layer's part of ``HybridCache.bytes_in_use``."""
        in_window = lengths.clamp(max=self.window_keys.shape[2])
        full, streaming = (self.keys, self.values), (self.window_keys, self.window_values)
        return lengths * token_bytes(*full) + in_window * token_bytes(*streaming)

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int | torch.Tensor) -> tuple[int, int]:
        return self.length + tokens_of_pass(query_length), 0

    def get_max_cache_shape(self) -> int:
        return -1

    def reset(self) -> None:
        """Let go of everything; the next pass may have a batch of another size."""
        if self.is_initialized:
            self._map_batch(lambda tensor: tensor.new_empty(0))
        self.is_initialized = False
        self.length = 0

    def crop(self, max_length: int) -> None:
        raise UnsupportedError(
            "hybrid cache: cannot be cropped, its streaming heads have let go of earlier tokens; "
            "assisted generation needs a cache that can"
        )

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._map_batch(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._map_batch(lambda tensor: tensor[indices])

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self._map_batch(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def _map_batch(self, function: Any) -> None:
        for name in ("keys", "values", "window_keys", "window_values"):
            setattr(self, name, function(getattr(self, name)))


def _append(buffer: torch.Tensor, length: int, new: torch.Tensor) -> torch.Tensor:
    """Write ``new`` [B, H, n, D] so that ``buffer`` holds ``length`` tokens; a full buffer grows."""
    if length > buffer.shape[2]:
        capacity = -(-length // GROWTH) * GROWTH
        grown = buffer.new_empty(*buffer.shape[:2], capacity, buffer.shape[3])
        grown[:, :, : length - new.shape[2]] = buffer[:, :, : length - new.shape[2]]
        buffer = grown
    buffer[:, :, length - new.shape[2] : length] = new
    return buffer


def hybrid_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: NewTokens,
    value: NewTokens,
    attention_mask: SequenceLayout,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over a ``HybridCache`` in the form that transformers calls.

    Returns:
        [B, T, Hq, D] and no attention weights.
    """
    if not isinstance(key, NewTokens):
        raise UnsupportedError(
            "hybrid attention: no HybridCache given, expected past_key_values=HybridCache(...)"
        )
    num_layers = cast(Any, module.config).num_hidden_layers
    if key.layer.num_layers != num_layers:
        raise UnsupportedError(
            f"hybrid cache: the model has {num_layers} layers, the mask is for {key.layer.num_layers}"
        )
    if kwargs.get("cu_seq_lens_q") is not None:
        raise UnsupportedError(
            "hybrid cache: found packed sequences (cu_seq_lens_q), expected one sequence a row"
        )
    out = key.layer.attend(query, key.key, key.value, scaling, resolve_layout(attention_mask, kwargs))
    return out.transpose(1, 2).contiguous(), None


def use_hybrid_cache(model: PreTrainedModel) -> None:
    """Switch a model to attention over a ``HybridCache``, which every later call must then be given.

    Raises:
        UnsupportedError: the model has layers with a window of their own, or attention of another kind.
    """
    attention_modules(model)
    AttentionInterface.register(HYBRID, hybrid_attention_forward)
    AttentionMaskInterface.register(HYBRID, layout_mask)
    model.set_attn_implementation(HYBRID)
