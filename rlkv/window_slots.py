"""Which token lies in which slot of a streaming head's S + W slots: the same in all layers and heads.

A token's slot is a function of its position alone (sinks first, then a ring), so that a step writes one slot
and moves nothing::

    position   0 .. S-1     S  S+1 ... S+W-1   S+W ...
    slot       0 .. S-1     S  S+1 ... S+W-1   S    ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from rlkv.attention.layout import PADDING, SequenceLayout
from rlkv.window import Window


@dataclass(frozen=True)
class WindowPass:
    """What one forward pass does to the slots, worked out once for all layers.

    Attributes:
        rows, tokens, slots: int64 [N]; token ``tokens[i]`` of this pass in row ``rows[i]`` goes to
            ``slots[i]``. Those that a later token of the pass pushes out again are not among them.
        writes_first: the new tokens are read from their slots, not beside them.
        mask: bool [B, 1, Tq, K], what each query sees of the slots (``writes_first``), or of the slots
            before the pass followed by its own tokens.
    """

    rows: torch.Tensor
    tokens: torch.Tensor
    slots: torch.Tensor
    writes_first: bool
    mask: torch.Tensor


class WindowSlots:
    """The slots of all rows of a batch.

    Attributes:
        positions: int64 [B, S + W], the position of the token in each slot, -1 while it is empty.
    """

    positions: torch.Tensor

    def __init__(self, window: Window) -> None:
        self.window = window
        self.clear()

    def clear(self) -> None:
        """Let go of everything; the next pass may have a batch of another size."""
        self._layout: SequenceLayout | None = None
        self.positions = torch.empty(0, 0, dtype=torch.int64)

    def map_batch(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Select or repeat rows."""
        self.positions = function(self.positions)

    def enter(self, layout: SequenceLayout, batch_size: int) -> WindowPass:
        """The pass of ``layout``: the first layer to ask moves the slots on, the others are told the same."""
        if layout is not self._layout:
            if not self.positions.numel():
                self.positions = torch.full((batch_size, self.window.size), PADDING, device=layout.device)
            new = layout.positions[:, -layout.query_length :].expand(batch_size, -1)
            self._pass = self._one_token(new) if layout.query_length == 1 else self._many_tokens(new)
            self._layout = layout
        return self._pass

    def _one_token(self, new: torch.Tensor) -> WindowPass:
        """A decoding step: its slot held the token that just left the window, so it writes first, then reads.

        Nothing here waits for the device, as a search for the tokens to write would.
        """
        rows = torch.arange(len(new), device=new.device)
        # Padding writes too: to the last slot, which is empty as long as a row has seen only padding.
        slots = self._slots(new)[:, 0] % self.window.size
        self.positions = self.positions.index_put((rows, slots), new[:, 0])
        mask = self._visible(new, self.positions)
        return WindowPass(rows, torch.zeros_like(rows), slots, True, mask)

    def _many_tokens(self, new: torch.Tensor) -> WindowPass:
        mask = self._visible(new, torch.cat([self.positions, new], dim=1))
        sink, recent = self.window.sink_size, self.window.recent_size
        kept = (new >= 0) & ((new < sink) | (new > new[:, -1:] - recent))
        rows, tokens = kept.nonzero(as_tuple=True)
        slots = self._slots(new)[rows, tokens]
        self.positions = self.positions.index_put((rows, slots), new[rows, tokens])
        return WindowPass(rows, tokens, slots, False, mask)

    def _slots(self, positions: torch.Tensor) -> torch.Tensor:
        sink, recent = self.window.sink_size, self.window.recent_size
        return torch.where(positions < sink, positions, sink + (positions - sink) % recent)

    def _visible(self, new: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """bool [B, 1, Tq, K]."""
        mask = self.window.visible(new[:, :, None], keys[:, None, :])
        # Empty slots are nobody's, but padding sees them and its own kind: no softmax may be over nothing.
        mask &= (new < 0)[:, :, None] == (keys < 0)[:, None, :]
        return mask.unsqueeze(1)
