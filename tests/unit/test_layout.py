"""Layouts: starts and positions worked out by hand, masks against a loop over the definition."""

from __future__ import annotations

import gc
import weakref
from itertools import product

import pytest
import torch

from rlkv.attention import SequenceLayout
from rlkv.attention.layout import starts_from_cu_seqlens, starts_from_padding, starts_from_position_ids
from rlkv.errors import UnsupportedError
from rlkv.window import Window

CPU = torch.device("cpu")
WINDOW = Window(2, 3)

ROWS: dict[str, list[list[int]] | None] = {
    "plain": None,
    "left padding": [[0] * 12, [-1] * 5 + [5] * 7, [-1] * 11 + [11], [-1] * 12],
    "packed": [[0] * 7 + [7] + [8] * 4],
    "padded and packed": [[-1] * 2 + [2] * 6 + [8] * 4, [0] * 1 + [1] * 11],
}


def naive_mask(starts: list[int], query_length: int, window: Window | None) -> list[list[bool]]:
    """What each of the last tokens of one row sees, by the definition; padding is left False."""
    total = len(starts)
    mask = [[False] * total for _ in range(query_length)]
    for row, i in enumerate(range(total - query_length, total)):
        for j in range(total):
            if starts[i] < 0 or starts[i] != starts[j] or j > i:
                continue
            position_i, position_j = i - starts[i], j - starts[j]
            near = window is None or position_i - position_j < window.recent_size
            mask[row][j] = near or position_j < window.sink_size
    return mask


@pytest.mark.parametrize("title", ROWS)
@pytest.mark.parametrize("query_length", [12, 5, 1])
@pytest.mark.parametrize("window", [None, WINDOW, Window(0, 1)], ids=str)
def test_masks_are_the_definition(title: str, query_length: int, window: Window | None) -> None:
    rows = ROWS[title]
    starts = None if rows is None else torch.tensor(rows, dtype=torch.int32)
    layout = SequenceLayout(query_length, 12, starts, CPU)
    mask = layout.full_mask() if window is None else layout.window_mask(window)
    rows = rows or [[0] * 12]
    assert mask.dtype == torch.bool and mask.shape == (len(rows), 1, query_length, 12)
    for found, row in zip(mask.squeeze(1), rows, strict=True):
        expected = naive_mask(row, query_length, window)
        for q, i in enumerate(range(12 - query_length, 12)):
            if row[i] >= 0:
                assert found[q].tolist() == expected[q], (row, i)
            else:  # a padding token sees padding, and something
                assert bool(found[q].any()) and all(row[j] < 0 for j in found[q].nonzero().flatten())


def test_packed_sequences_come_apart_and_nothing_else_does() -> None:
    packed = torch.tensor([[0] * 4 + [4] + [5] * 4 + [9] * 3], dtype=torch.int32)
    parts = SequenceLayout(12, 12, packed, CPU).sequences()
    assert [part.query_length for part in parts] == [4, 1, 4, 3]
    assert all(part.is_plain_causal and part.key_length == part.query_length for part in parts)
    assert parts[0] is parts[2]  # masks are built once for a length
    whole = [
        SequenceLayout(12, 12, None, CPU),
        SequenceLayout(5, 12, packed, CPU),  # goes on from an earlier pass
        SequenceLayout(12, 12, packed.expand(2, -1).contiguous(), CPU),  # rows that could differ
        SequenceLayout(12, 12, torch.tensor([[-1] * 2 + [2] * 10], dtype=torch.int32), CPU),
        SequenceLayout(12, 12, torch.zeros(1, 12, dtype=torch.int32), CPU),
    ]
    assert all(layout.sequences() == [layout] for layout in whole)


def test_a_layout_and_its_masks_go_with_their_last_user() -> None:
    layout = SequenceLayout(4, 4, None, CPU)
    assert layout.sequences() == [layout]
    kept = weakref.ref(layout.full_mask())
    gc.disable()
    try:
        del layout
        assert kept() is None
    finally:
        gc.enable()


def test_positions_count_from_the_sequences_own_first_token() -> None:
    starts = torch.tensor([[-1, -1, 2, 2, 2, 5, 5], [0] * 7], dtype=torch.int32)
    layout = SequenceLayout(7, 7, starts, CPU)
    assert layout.positions.tolist() == [[-1, -1, 0, 1, 2, 0, 1], list(range(7))]
    assert SequenceLayout(2, 4, None, CPU).positions.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([[1, 1, 1], [1, 1, 1]], None),
        ([[1, 1, 0], [1, 0, 0]], None),  # right padding is the tail of its sequence
        ([[0, 0, 1], [1, 1, 1]], [[-1, -1, 2], [0, 0, 0]]),
        ([[0, 1, 1, 0]], [[-1, 1, 1, 1]]),
        ([[0, 1, 0, 1]], [[-1, 1, 1, 1]]),
        ([[0, 0, 0], [0, 1, 1]], [[-1, -1, -1], [-1, 1, 1]]),  # a chunk in which one row has not begun
    ],
)
def test_starts_from_padding(mask: list[list[int]], expected: list[list[int]] | None) -> None:
    for dtype in (torch.int64, torch.bool, torch.float32):
        starts = starts_from_padding(torch.tensor(mask, dtype=dtype))
        assert (None if starts is None else starts.tolist()) == expected
        assert starts is None or starts.dtype == torch.int32


@pytest.mark.parametrize(
    ("cu_seqlens", "num_tokens", "expected"),
    [
        ([0, 5], 5, [0] * 5),
        ([0, 2, 5], 5, [0, 0, 2, 2, 2]),
        ([0, 2, 5], 8, [0, 0, 2, 2, 2, 5, 5, 5]),  # what lies behind is a sequence of its own
        ([0, 2, 2, 3], 3, [0, 0, 2]),  # an empty sequence
        ([0, 1, 2, 3], 3, [0, 1, 2]),
    ],
)
def test_starts_from_cu_seqlens(cu_seqlens: list[int], num_tokens: int, expected: list[int]) -> None:
    for dtype in (torch.int32, torch.int64):
        starts = starts_from_cu_seqlens(torch.tensor(cu_seqlens, dtype=dtype), num_tokens)
        assert starts.dtype == torch.int32 and starts.tolist() == [expected]


def test_sequences_longer_than_the_row_are_refused() -> None:
    with pytest.raises(
        UnsupportedError, match=r"^packed sequences: cu_seq_lens_q ends at 8, expected at most 4"
    ):
        starts_from_cu_seqlens(torch.tensor([0, 4, 8]), 4)  # two rows of 4, as a flattened batch


@pytest.mark.parametrize(
    ("position_ids", "expected"),
    [
        ([0, 1, 2, 0, 1], [0, 0, 0, 3, 3]),
        ([0, 0, 0, 1], [0, 1, 2, 2]),
        ([1, 2, 3, 0, 1], [0, 0, 0, 3, 3]),  # a sequence is told by the break, wherever its ids begin
        ([0, 1, 7, 8, 4, 5], [0, 0, 2, 2, 4, 4]),
    ],
)
def test_starts_from_position_ids(position_ids: list[int], expected: list[int]) -> None:
    starts = starts_from_position_ids(torch.tensor([position_ids]))
    assert starts.dtype == torch.int32 and starts.tolist() == [expected]


def test_plain_causal_only_where_a_kernel_needs_no_mask() -> None:
    starts = torch.zeros(1, 8, dtype=torch.int32)
    plain = {
        (query_length, given is not None): SequenceLayout(query_length, 8, given, CPU).is_plain_causal
        for query_length, given in product((1, 3, 8), (None, starts))
    }
    assert {case for case, is_plain in plain.items() if is_plain} == {(1, False), (8, False)}
