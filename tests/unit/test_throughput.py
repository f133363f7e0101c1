"""Lengths, rates and bounds of the throughput bench, against values worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rlkv_eval.throughput.client import random_prompts
from rlkv_eval.throughput.config import (
    CASES,
    CONCURRENCY,
    FULL,
    MEMORY,
    PREFIX,
    SHAPES,
    ThroughputConfig,
    Workload,
)
from rlkv_eval.throughput.figures import figures
from rlkv_eval.throughput.lengths import held_tokens, replay_lengths
from rlkv_eval.throughput.run import _check_same, _identity, arm_file, median_burst, server_flags
from rlkv_eval.throughput.theory import Cache, Device, simulate
from rlkv_eval.throughput.timeline import Timeline, end_to_end, while_all_decode, while_requests_wait

from rlkv.errors import ConfigError, DataError
from rlkv.heads import HeadsFile, resolve


def test_replay_has_the_statistics_of_the_published_run() -> None:
    lengths = replay_lengths()
    assert len(lengths) == 500
    assert sum(lengths) / 500 == pytest.approx(3108, abs=1)
    assert lengths.count(8192) == 89 == round(0.178 * 500)
    assert (min(lengths), max(lengths)) == (273, 8192)
    assert lengths == replay_lengths()
    assert sorted(lengths) == sorted(replay_lengths(seed=1))
    assert lengths != replay_lengths(seed=1)


@pytest.mark.parametrize("requests", [1, 4, 37, 200])
def test_a_shorter_replay_keeps_the_mean(requests: int) -> None:
    lengths = replay_lengths(requests)
    assert lengths.count(8192) == round(0.178 * requests)
    if requests > 10:
        assert sum(lengths) / requests == pytest.approx(3108, rel=0.01)


def test_running_requests_hold_more_than_those_that_arrive() -> None:
    assert held_tokens(10, [100, 100]) == 10 + 50
    assert held_tokens(0, [100, 300]) == round((100 * 50 + 300 * 150) / 400)


LINES = [Timeline((1.0, 2.0, 4.0), (1, 11, 31)), Timeline((3.0, 5.0), (1, 21)), Timeline((6.0, 8.0), (1, 11))]


def test_tokens_lie_on_straight_lines_between_reports() -> None:
    assert [LINES[0].tokens_at(t) for t in (0.5, 1.0, 1.5, 3.0, 4.0, 9.0)] == [0, 1, 6, 21, 31, 31]


def test_stretches_by_hand() -> None:
    whole = end_to_end(LINES)
    assert (whole.begin, whole.end, whole.tokens) == (0.0, 8.0, 31 + 21 + 11)
    waiting = while_requests_wait(LINES)  # the first ends at 4 s, the last gets its first token at 6 s
    assert waiting is not None
    assert (waiting.begin, waiting.end) == (4.0, 6.0)
    assert waiting.tokens == pytest.approx((31 - 31) + (21 - 11) + (1 - 0))
    retracted = Timeline((1.0, 2.0, 7.0, 8.0), (1, 2, 3, 4))  # lost its place until 7 s
    again = while_requests_wait([Timeline((1.0, 2.0, 3.0, 4.0), (1, 2, 3, 4)), retracted])
    assert again is not None
    assert (again.begin, again.end, again.tokens) == (4.0, 7.0, 3 - 2.4)
    assert while_all_decode(LINES) is None
    together = [Timeline((1.0, 2.0, 4.0), (1, 11, 31)), Timeline((1.5, 2.5, 4.5), (1, 11, 31))]
    decoding = while_all_decode(together)
    assert decoding is not None
    assert (decoding.begin, decoding.end) == (2.5, 4.0)
    assert decoding.tokens_per_second == pytest.approx(2 * 10)
    assert while_requests_wait(together) is None


def test_bound_of_two_requests_by_hand() -> None:
    """10 bytes a token and 100 of weights at 1,000 bytes/s; a streaming head of 2 bytes sees 3 tokens."""
    device = Device(weight_bytes=100, bandwidth=1000)
    dense = simulate(5, [2, 3], Cache(10, 0, 0, capacity=100), device)
    assert dense[0].times == pytest.approx((0.2, 0.42))  # 100 + 2 * 50, then 100 + 2 * 60
    assert dense[1].times == pytest.approx((0.2, 0.59))  # then 100 + 70 alone
    hybrid = simulate(5, [2, 3], Cache(8, 2, 3, capacity=100), device)
    assert hybrid[1].finished == pytest.approx((100 + 92 + 100 + 108 + 100 + 62) / 1000)


def test_bound_reads_a_shared_prefix_once() -> None:
    device = Device(weight_bytes=100, bandwidth=1000)
    lines = simulate(5, [1, 2], Cache(10, 2, 3, capacity=8), device, shared_tokens=4)
    assert lines[0].times == pytest.approx(((100 + 40 + 2 * (10 + 6)) / 1000,))  # 4 + 2 * 1 tokens fit into 8
    assert lines[1].finished == pytest.approx(((100 + 40 + 32) + (100 + 40 + 20 + 6)) / 1000)


def test_bound_waits_for_memory() -> None:
    device = Device(weight_bytes=1, bandwidth=1)
    lines = simulate(5, [3, 3, 3], Cache(0, 0, 0, capacity=14), device)  # two prompts fit, 16 tokens do not
    assert [line.tokens[-1] for line in lines] == [3, 3, 3]
    assert lines[0].finished == 3
    assert lines[1].finished > 3  # it made way, and went on
    assert lines[2].admitted > lines[0].finished


def test_figures_compare_with_the_stock_server() -> None:
    load = Workload(5, [40] * 4)
    hybrid = {"sink_size": 1, "recent_size": 2, "full_token_bytes": 5, "window_token_bytes": 5}
    caches = {FULL: {"full_tokens": 60}, "0.5": {**hybrid, "full_tokens": 110, "dense_token_bytes": 10}}
    slow = [Timeline((1.0, 41.0 + wait), (1, 40)) for wait in (0.0, 0.0, 40.0, 40.0)]
    fast = [Timeline((1.0, 41.0), (1, 40))] * 4
    found = figures(MEMORY, load, {FULL: slow, "0.5": fast}, caches, Device(100, 1e3))
    by_place = {(figure.stretch, figure.arm): figure for figure in found}
    assert by_place["end to end", FULL].measured_ratio == 1
    assert by_place["end to end", "0.5"].measured_ratio == pytest.approx(81 / 41)
    assert by_place["while requests wait", "0.5"].measured is None  # nobody waited
    assert (by_place["end to end", "0.5"].theory_ratio or 0) > 1
    late = [Timeline((first, 41.0), (1, 40)) for first in (1.0, 2.0, 3.0, 6.0)]
    first = figures(PREFIX, load, {FULL: slow, "0.5": late}, caches, Device(100, 1e3))[1]
    assert (first.first_token_ms, first.first_token_ratio) == (3000, 3)


def test_prompts_of_a_load_share_its_prefix_and_nothing_more() -> None:
    shared, prompts = random_prompts(Workload(90, [1] * 8, shared_tokens=60), 1000)
    assert len(shared) == 60
    assert {len(prompt) for prompt in prompts} == {90}
    assert all(prompt[:60] == shared for prompt in prompts)
    assert len({tuple(prompt[60:]) for prompt in prompts}) == 8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cases": ("speed",)}, "--cases: found 'speed', expected some of memory, concurrency, prefix"),
        ({"sparsities": (1.5,)}, r"sparsity is 1.5, expected a number in \[0, 1\]"),
        ({"requests": 0}, "--requests: found 0, expected more than 0"),
        ({"running": {"full": "http://a"}}, "--running: found full, expected one server each for full, 0.5"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(given: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        ThroughputConfig(**{"out": tmp_path, "model": "m", "dummy_weights": False, "heads": "h"} | given)


def test_a_measurement_knows_itself_again_when_it_is_read(tmp_path: Path) -> None:
    heads = HeadsFile.read(resolve("tiny-reasoner"))
    config = ThroughputConfig(tmp_path, "tiny-reasoner", False, "tiny-reasoner", server_flags=("--tp", "2"))
    for case in CASES:
        for arm in config.arms:
            path = arm_file(tmp_path, case, arm)
            path.parent.mkdir(exist_ok=True)
            identity = _identity(config, heads, case, arm)
            path.write_text(json.dumps({"identity": identity}))
            _check_same(path, identity)
    with pytest.raises(DataError, match="was measured with another seed"):
        _check_same(path, identity | {"seed": 1})


def test_shape_of_llama_has_its_published_size() -> None:
    from rlkv.model_size import model_config, weight_bytes

    config = model_config(str(SHAPES / "llama-3.1-8b"))
    assert weight_bytes(config, 1) == 8_030_261_248  # parameters, as the model card counts them


def test_graphs_cover_what_runs_at_once(tmp_path: Path) -> None:
    heads = HeadsFile.read(resolve("tiny-reasoner"))
    limited = ThroughputConfig(tmp_path, "tiny-reasoner", False, "tiny-reasoner", concurrency=300)
    unlimited = replace(limited, kv_tokens=0)
    for arm in limited.arms:
        flags = {
            (config.kv_tokens, case): server_flags(config, heads, case, arm, config.workload(case), 4096)
            for config in (limited, unlimited)
            for case in (MEMORY, CONCURRENCY)
        }
        assert "--cuda-graph-max-bs-decode" not in flags[limited.kv_tokens, MEMORY]
        assert flags[0, MEMORY][-2:] == ["--cuda-graph-max-bs-decode", "500"]
        assert flags[0, CONCURRENCY][-2:] == ["--cuda-graph-max-bs-decode", "300"]


def test_the_median_burst_is_kept() -> None:
    bursts = [[Timeline((first, 9.0), (1, 2)), Timeline((1.0, 9.0), (1, 2))] for first in (5.0, 2.0, 3.0)]
    assert median_burst(bursts)[0].admitted == 3.0
