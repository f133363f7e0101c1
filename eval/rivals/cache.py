"""A KV cache that really drops tokens while the model decodes: what a method lets go of is freed at once."""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from rlkv.attention.layout import PADDING, SequenceLayout
from rlkv.attention.mixed import grouped_attention
from rlkv.attention.registry import tokens_of_pass
from rlkv.cache import NewTokens
from rlkv.errors import UnsupportedError
from rlkv.kv_meter import token_bytes

from .attention import received_attention
from .base import Held, TokenDropper
from .budget import Budget
from .pause import Pause
from .token_slots import TokenSlots


class DroppingCache(Cache):
    """A cache for one ``generate()`` call of a model prepared by ``rlkv.cache.use_hybrid_cache``.

    Args:
        method: which tokens go.
        budget: how many stay.
        model: whose layers there will be.
        input_ids: [B, T], the prompts, padded on the left.
        attention_mask: [B, T].
    """

    def __init__(
        self,
        method: TokenDropper,
        budget: Budget,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
    ) -> None:
        given = method.read_prompt(model, input_ids, attention_mask)
        count = model.config.get_text_config().num_hidden_layers
        self.dropping_layers = [
            DroppingLayer(method, budget, count, given[index] if given else None) for index in range(count)
        ]
        # A method that looked at the whole prompt before it dropped any of it has held the whole prompt.
        self.reads_prompt = given is not None
        super().__init__(layers=list(self.dropping_layers))

    def bytes_in_use(self, lengths: torch.Tensor) -> torch.Tensor:
        """int64 [B]: bytes that each row's tokens use; after the prompt, those that reading it took, if more.

        Args:
            lengths: int64 [B], tokens that each row has passed (``rlkv.kv_meter``).
        """
        held = cast(torch.Tensor, sum(layer.slots.bytes_held() for layer in self.dropping_layers))
        if self.reads_prompt and self.dropping_layers[0].only_prompt:
            whole = sum(token_bytes(x.slots.keys, x.slots.values) for x in self.dropping_layers)
            return torch.maximum(held, lengths * whole)
        return held

    def nbytes(self) -> int:
        """Bytes of keys and values that the cache holds on its device."""
        return sum(layer.slots.nbytes() for layer in self.dropping_layers)


class DroppingLayer(CacheLayerMixin):
    """One layer's tokens.

    Attributes:
        slots: what is held.
        queries: [B, H, G, w, D], of the last tokens, as many as the method looks at.
        query_positions: int64 [B, w].
        length: tokens seen so far, padding included.
    """

    is_sliding = False
    slots: TokenSlots
    queries: torch.Tensor
    query_positions: torch.Tensor

    def __init__(
        self, method: TokenDropper, budget: Budget, num_layers: int, given: torch.Tensor | None
    ) -> None:
        super().__init__()
        self.method = method
        self.budget = budget
        self.num_layers = num_layers
        self.given = given
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Take this pass's keys and values; the attention function of the hybrid cache brings them back."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = NewTokens(cast(Any, self), key_states, value_states)
        return new, new

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        layout: SequenceLayout,
    ) -> torch.Tensor:
        """Store the new tokens, attend to all held ones, then drop what exceeds the budget.

        Args:
            query: [B, Hq, Tq, D].
            key, value: [B, H, Tq, D], this pass's.
            scaling: factor of the logits.
            layout: of the whole row.

        Returns:
            [B, Hq, Tq, D].

        Raises:
            UnsupportedError: more than one token after the prompt, as in chunked prefill.
        """
        new = key.shape[2]
        positions = layout.positions[:, -new:].expand(len(key), -1)
        if not self.length:
            out = self._read_prompt(query, key, value, scaling, layout, positions)
        elif new == 1:
            out = self._read_token(query, key, value, scaling, positions)
        else:
            raise UnsupportedError(
                f"token dropping: found {new} tokens in a pass after the prompt, expected 1: the prompt is "
                "read in one pass"
            )
        self.length += new
        self._drop(positions[:, -1] + 1, scaling)
        return out

    def _read_prompt(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        layout: SequenceLayout,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        heads = key.shape[1]
        self.prompt_columns = key.shape[2]
        self.prompt_lengths = positions[:, -1] + 1
        self.shortest_prompt = int(self.prompt_lengths.min())
        marks = {"positions": positions.clamp(min=PADDING)[:, None].expand(-1, heads, -1)}
        if self.method.accumulates:
            marks["received"] = received_attention(query, key, layout.full_mask(), scaling)
        if self.given is not None:
            marks["given"] = self.given
        self.slots = TokenSlots(key, value, marks)
        self._see(query, positions, heads)
        mask = None if layout.is_plain_causal else layout.full_mask()
        return grouped_attention(query, key, value, mask, scaling)

    def _read_token(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        self.slots.append(key, value, positions)
        self._see(query, positions, key.shape[1])
        visible = self.slots.filled[:, :, None, :]
        if self.method.accumulates:
            received = self.slots.marks["received"]
            received += received_attention(query, self.slots.keys, visible, scaling)
        return grouped_attention(query, self.slots.keys, self.slots.values, visible, scaling)

    def _see(self, query: torch.Tensor, positions: torch.Tensor, heads: int) -> None:
        """Remember the last queries, as many as the method looks at."""
        window, grouped = self.method.window, query.unflatten(1, (heads, -1))
        if self.length:
            grouped = torch.cat([self.queries, grouped], dim=3)
            positions = torch.cat([self.query_positions, positions], dim=1)
        first = grouped.shape[3] - min(window, grouped.shape[3])
        self.queries, self.query_positions = grouped[:, :, :, first:], positions[:, first:]

    def _drop(self, lengths: torch.Tensor, scaling: float) -> None:
        """Drop what exceeds the budget, where this is a step to drop at."""
        step = self.length - self.prompt_columns
        pause = Pause(step, self.method.interval, self.method.least)
        # The shortest and the longest row tell enough of all, and what they may hold is known without asking
        # the device.
        all_wait = pause.all_wait(self.budget, self.shortest_prompt + step)
        if all_wait and pause.since:
            return
        room = pause.left if all_wait else 0
        held = Held(
            self.slots,
            lengths,
            self.prompt_lengths,
            pause.counts(self.budget, lengths),
            self.queries,
            self.query_positions,
            scaling,
        )
        most = self.budget.most(self.length + room) - room
        self.slots.keep(self.method.scores(held), held.counts, most)

    @property
    def only_prompt(self) -> bool:
        """Whether no token has come after the prompt yet."""
        return self.length == self.prompt_columns

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int | torch.Tensor) -> tuple[int, int]:
        return self.length + tokens_of_pass(query_length), 0

    def get_max_cache_shape(self) -> int:
        return -1
