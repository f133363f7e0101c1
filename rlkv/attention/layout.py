"""Which sequence every token of a batch belongs to, and the attention masks that follow from it.

One number a token covers left padding, packed sequences and plain rows alike: ``starts[b, t]`` is the index,
in row b, of the first token of the sequence that token t belongs to, and -1 where t is left padding. Two
tokens belong to the same sequence when their starts are equal, and a token's position is its index minus its
start. Right padding counts as the tail of its sequence, which is harmless under a causal mask.
"""

from __future__ import annotations

import torch

from rlkv.errors import UnsupportedError
from rlkv.window import Window

PADDING = -1


def starts_from_padding(attention_mask: torch.Tensor) -> torch.Tensor | None:
    """Starts of a padded batch.

    Args:
        attention_mask: [B, T], nonzero where a token is real.

    Returns:
        int32 [B, T], or None when no row is padded on the left.
    """
    real = attention_mask.bool()
    if bool(real[:, 0].all()):
        return None
    seen = real.cumsum(dim=-1) > 0
    first = real.int().argmax(dim=-1, keepdim=True).int()
    return torch.where(seen, first, PADDING)


def starts_from_cu_seqlens(cu_seqlens: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Starts of one row of packed sequences.

    Args:
        cu_seqlens: [N + 1] cumulative lengths, beginning with 0.
        num_tokens: length of the row; tokens behind the last sequence count as a sequence of their own.

    Returns:
        int32 [1, T].

    Raises:
        UnsupportedError: the sequences are longer than the row, as when they run over several rows.
    """
    if int(cu_seqlens[-1]) > num_tokens:
        raise UnsupportedError(
            f"packed sequences: cu_seq_lens_q ends at {int(cu_seqlens[-1])}, expected at most {num_tokens}, "
            "the tokens of the one row that holds them all"
        )
    index = torch.arange(num_tokens, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    sequence = torch.searchsorted(cu_seqlens, index, right=True) - 1
    return cu_seqlens[sequence].int().unsqueeze(0)


def starts_from_position_ids(position_ids: torch.Tensor) -> torch.Tensor:
    """Starts of rows of packed sequences that only their position ids tell apart.

    Args:
        position_ids: [B, T]; a sequence begins wherever they do not go up by one.

    Returns:
        int32 [B, T].
    """
    index = torch.arange(position_ids.shape[1], device=position_ids.device)
    begins = torch.diff(position_ids, prepend=position_ids[:, :1] - 1) != 1
    return torch.where(begins, index, 0).cummax(dim=-1).values.int()


class SequenceLayout:
    """The layout of one forward pass; masks are built on first use and shared by all layers.

    Attributes:
        query_length: Tq, tokens of this pass, the last ones of the row.
        key_length: Tk >= Tq, tokens of the row, those of earlier passes included.
        starts: int32 [B or 1, Tk], or None when every row is one sequence that begins at index 0.
        packed_by_position: rows hold several sequences, told apart by position ids alone.
    """

    def __init__(
        self,
        query_length: int,
        key_length: int,
        starts: torch.Tensor | None,
        device: torch.device,
        packed_by_position: bool = False,
    ) -> None:
        self.query_length = query_length
        self.key_length = key_length
        self.starts = starts
        self.device = device
        self.packed_by_position = packed_by_position
        self._rows: torch.Tensor | None = None
        self._masks: dict[Window | None, torch.Tensor] = {}
        self._sequences: list[SequenceLayout] | None = None

    def starts_of_rows(self, batch: int) -> torch.Tensor | None:
        """``starts`` with a row for each of ``batch``: contiguous int32 [batch, Tk], or None as there.

        The same tensor at every call, because ``packing_of`` keeps by tensor what it had to wait for.
        """
        if self.starts is not None and (self._rows is None or len(self._rows) != batch):
            self._rows = self.starts.expand(batch, -1).contiguous()
        return self._rows

    @property
    def is_plain_causal(self) -> bool:
        """Whether a kernel's own causal mask is all that full attention needs."""
        return self.starts is None and self.query_length in (1, self.key_length)

    @property
    def positions(self) -> torch.Tensor:
        """int64 [B or 1, Tk]: each token's position in its own sequence, negative on padding."""
        index = torch.arange(self.key_length, device=self.device).unsqueeze(0)
        if self.starts is None:
            return index
        return torch.where(self.starts == PADDING, PADDING, index - self.starts)

    def sequences(self) -> list[SequenceLayout]:
        """The sequences that are packed into this pass one behind the other; equal lengths are one object.

        Only this layout itself where rows differ, are padded on the left, or go on from an earlier pass.
        """
        if self._sequences is None:
            self._sequences = self._cut()
        return self._sequences or [self]  # never kept: a circle would hold the masks until it is collected

    def _cut(self) -> list[SequenceLayout]:
        if self.starts is None or len(self.starts) > 1 or self.query_length != self.key_length:
            return []
        begins, lengths = self.starts[0].unique_consecutive(return_counts=True)
        if len(begins) == 1 or int(begins[0]) == PADDING:
            return []
        sizes = lengths.tolist()
        alike = {size: SequenceLayout(size, size, None, self.device) for size in set(sizes)}
        return [alike[size] for size in sizes]

    def full_mask(self) -> torch.Tensor:
        """bool [B or 1, 1, Tq, Tk]: what a full head sees."""
        return self._mask(None)

    def window_mask(self, window: Window) -> torch.Tensor:
        """bool [B or 1, 1, Tq, Tk]: what a streaming head sees."""
        return self._mask(window)

    def _mask(self, window: Window | None) -> torch.Tensor:
        if window not in self._masks:
            self._masks[window] = self._build_mask(window).unsqueeze(1)
        return self._masks[window]

    def _build_mask(self, window: Window | None) -> torch.Tensor:
        index = torch.arange(self.key_length, device=self.device)
        mask = (index <= index[-self.query_length :, None]).unsqueeze(0)
        if window is not None:
            positions = self.positions
            in_window = window.visible(positions[:, -self.query_length :, None], positions[:, None, :])
            # Padding sees padding, so that no softmax is over nothing; its output is never read.
            mask = mask & (in_window | (positions < 0)[:, None, :])
        if self.starts is not None:
            mask = mask & (self.starts[:, -self.query_length :, None] == self.starts[:, None, :])
        return mask
