"""The window's definition, against a double loop and its own promises."""

from itertools import product

import pytest
import torch

from rlkv.errors import ConfigError
from rlkv.window import PAPER_SERVE_WINDOW, PAPER_TRAIN_WINDOW, Window

SIZES = [(0, 1), (0, 5), (1, 1), (2, 3), (4, 28), (7, 1)]


@pytest.mark.parametrize(("sink", "recent"), SIZES)
def test_visible_is_the_definition(sink: int, recent: int) -> None:
    length = 40
    position = torch.arange(length)
    visible = Window(sink, recent).visible(position[:, None], position)
    assert visible.dtype == torch.bool
    for i, j in product(range(length), range(length)):
        assert bool(visible[i, j]) == (j <= i and (j < sink or i - j < recent)), (i, j)


@pytest.mark.parametrize(("sink", "recent"), SIZES)
def test_a_query_sees_itself_and_at_most_size_keys(sink: int, recent: int) -> None:
    window = Window(sink, recent)
    position = torch.arange(50)
    visible = window.visible(position[:, None], position)
    assert bool(visible.diagonal().all())
    assert visible.sum(dim=1).tolist() == [min(i + 1, sink + recent) for i in range(50)]
    assert window.size == sink + recent


def test_a_row_by_hand() -> None:
    visible = Window(2, 3).visible(torch.tensor(7), torch.arange(10))
    assert visible.nonzero().flatten().tolist() == [0, 1, 5, 6, 7]


def test_windows_of_the_paper() -> None:
    assert str(PAPER_TRAIN_WINDOW) == "128+256"
    assert str(PAPER_SERVE_WINDOW) == "16+64"


@pytest.mark.parametrize(
    ("sink", "recent", "message"),
    [
        (-1, 4, "window: sink_size is -1, expected an integer of at least 0"),
        (4, 0, "window: recent_size is 0, expected an integer of at least 1"),
        (4, -3, "window: recent_size is -3, expected an integer of at least 1"),
        (4.0, 8, "window: sink_size is 4.0, expected an integer of at least 0"),
        (4, "8", "window: recent_size is '8', expected an integer of at least 1"),
        (True, 8, "window: sink_size is True, expected an integer of at least 0"),
    ],
)
def test_sizes_that_are_no_window_are_refused(sink: int, recent: int, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        Window(sink, recent)
