"""Hyper-parameters of token droppers: those out of range are refused when they are read."""

from __future__ import annotations

import pytest
from rlkv_eval.rivals.recipe import droppers

from rlkv.errors import ConfigError

OUT_OF_RANGE = [
    ("r-kv.interval=0", "r-kv.interval is 0, expected at least 1"),
    ("h2o.interval=-1", "h2o.interval is -1, expected at least 1"),
    ("r-kv.window=0", "r-kv.window is 0, expected at least 1"),
    ("snapkv.window=0", "snapkv.window is 0, expected at least 1"),
    ("h2o.window=-1", "h2o.window is -1, expected at least 0"),
    ("snapkv.kernel=4", "snapkv.kernel is 4, expected an odd number of at least 1"),
    ("r-kv.kernel=0", "r-kv.kernel is 0, expected an odd number of at least 1"),
    ("r-kv.importance=nan", r"r-kv.importance is nan, expected a number in \[0, 1\]"),
    ("r-kv.similar=inf", r"r-kv.similar is inf, expected a number in \[0, 1\]"),
    ("h2o.recent_share=1.5", r"h2o.recent_share is 1.5, expected a number in \[0, 1\]"),
    ("streaming-llm.sinks=-1", "streaming-llm.sinks is -1, expected at least 0"),
    ("kvzip.sinks=-1", "kvzip.sinks is -1, expected at least 0"),
    ("random-attention.recent=-1", "random-attention.recent is -1, expected at least 0"),
]


@pytest.mark.parametrize(("option", "message"), OUT_OF_RANGE, ids=[option for option, _ in OUT_OF_RANGE])
def test_an_option_out_of_range_is_refused(option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^method_options: {message}$"):
        droppers([option])


@pytest.mark.parametrize(
    "option", ["r-kv.interval=128", "snapkv.kernel=1", "h2o.recent_share=0", "kvzip.sinks=0"]
)
def test_an_option_at_the_edge_of_its_range_is_taken(option: str) -> None:
    name, _, rest = option.partition(".")
    field, _, value = rest.partition("=")
    assert getattr(droppers([option])[name], field) == float(value)
