"""Bytes, pool sizes and forecasts, against values worked out by hand."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tiny_heads import heads_file
from typer.testing import CliRunner

from rlkv.cli.main import app
from rlkv.errors import ConfigError
from rlkv.planner import (
    CacheShape,
    Demand,
    Load,
    PoolSizes,
    caveats,
    dense_tokens,
    forecast_dense,
    forecast_hybrid,
    split_memory,
    window_tokens,
)
from rlkv.window import Window

SHAPE = CacheShape(full_heads=(1, 0), streaming_heads=(1, 2), head_dim=8, element_bytes=2)
"""32 bytes of a token in a head: 32 in the full heads, 96 in the streaming ones, 128 in all."""

DEMAND = Demand(Window(4, 12), request_tokens=100, page_size=1, eviction_interval=3, prefill_tokens=40)
"""29 slots a request: 4 + 12, the 12 before the end of the prompt, and the page that is being filled."""


def test_bytes_of_a_token() -> None:
    assert (SHAPE.full_token_bytes, SHAPE.window_token_bytes, SHAPE.dense_token_bytes) == (32, 96, 128)


def test_shape_of_a_mask() -> None:
    mask = [[False, True, True], [False, False, False]]
    assert CacheShape.of(mask, 8, 2) == CacheShape((1, 3), (2, 0), 8, 2)


@pytest.mark.parametrize(
    ("full", "expected"),
    [(1000, 10 * 29 + 40), (1001, 11 * 29 + 40), (50, 50), (0, 0)],
    ids=["ten requests", "one more begun", "never more than the full pool", "none"],
)
def test_window_pool_holds_the_requests_and_the_prefill(full: int, expected: int) -> None:
    assert window_tokens(full, DEMAND, SHAPE) == expected


def test_without_streaming_heads_every_token_has_a_slot_that_costs_nothing() -> None:
    dense = CacheShape((2, 2), (0, 0), 8, 2)
    assert window_tokens(1000, DEMAND, dense) == 1000
    assert PoolSizes(1000, 1000).nbytes(dense, page_size=1) == 1001 * 128


def test_pages_are_whole() -> None:
    demand = Demand(Window(5, 20), request_tokens=100, page_size=16, eviction_interval=3, prefill_tokens=40)
    assert demand.slots_per_request == 64  # 5 + 20 + 20 + 16 = 61
    assert demand.settled_slots == 48  # 5 + 20 + 3 + 16 = 44
    assert window_tokens(992, demand, SHAPE) == 688  # 10 * 64 + 40 = 680


def test_pool_bytes_count_the_page_that_is_nobodys() -> None:
    assert PoolSizes(1000, 240).nbytes(SHAPE, page_size=1) == 1001 * 32 + 241 * 96


@pytest.mark.parametrize("page_size", [1, 16])
def test_memory_is_spent_to_the_last_page(page_size: int) -> None:
    rng = random.Random(0)
    for _ in range(50):
        demand = Demand(
            Window(rng.randrange(20), rng.randrange(1, 80)),
            request_tokens=rng.randrange(10, 3000),
            page_size=page_size,
            eviction_interval=rng.choice([1, 128]),
            prefill_tokens=rng.choice([0, 64, 4096]),
        )
        budget = rng.randrange(100_000, 10_000_000)
        sizes = split_memory(budget, demand, SHAPE)
        more = PoolSizes(
            sizes.full_tokens + page_size, window_tokens(sizes.full_tokens + page_size, demand, SHAPE)
        )
        assert sizes.nbytes(SHAPE, page_size) <= budget < more.nbytes(SHAPE, page_size)


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="KV memory is 100 bytes, expected at least 256"):
        split_memory(100, DEMAND, SHAPE)


def test_dense_tokens_in_the_same_memory() -> None:
    assert dense_tokens(1001 * 128, SHAPE, page_size=1) == 1000
    assert dense_tokens(1001 * 128 - 1, SHAPE, page_size=1) == 999


def test_forecast_by_hand() -> None:
    load = Load(prompt_tokens=50, output_tokens=100)  # 100 tokens held on average
    dense = forecast_dense(10_001 * 128, load, 1, SHAPE, weight_bytes=1000, bandwidth=1e6)
    assert (dense.tokens, dense.running) == (10_000, 100)
    assert dense.step_seconds == pytest.approx((100 * 100 * 128 + 1000) / 1e6)
    hybrid = forecast_hybrid(10_001 * 128, load, DEMAND, SHAPE, weight_bytes=1000, bandwidth=1e6)
    assert hybrid.running == hybrid.tokens / 100
    assert hybrid.kv_bytes == pytest.approx(hybrid.running * (100 * 32 + 16 * 96))
    assert caveats(dense, hybrid, load, DEMAND.window) == []


def test_caveats_name_what_is_in_the_way() -> None:
    load = Load(prompt_tokens=4, output_tokens=10, requests=3)
    dense = forecast_dense(10_001 * 128, load, 1, SHAPE, weight_bytes=10**6, bandwidth=1e6)
    hybrid = forecast_hybrid(10_001 * 128, load, DEMAND, SHAPE, weight_bytes=10**6, bandwidth=1e6)
    names = [note.split(":")[0] for note in caveats(dense, hybrid, load, DEMAND.window)]
    assert names == ["little load", "short requests", "weights dominate", "little to gain"]


def test_plan_of_the_tiny_reasoner(tmp_path: Path) -> None:
    heads = heads_file(tmp_path / "heads.json")
    args = ["plan", "--model", "tiny-reasoner", "--heads", str(heads), "--sparsity", "0.5", "--json"]
    args += ["--gpu-memory", "1", "--prompt-tokens", "100", "--output-tokens", "1000"]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert plan["dense_token_bytes"] == 8 * 6 * 64 * 2 * 2  # layers, heads, channels, K and V, bfloat16
    assert plan["streaming_heads"] == 24
    assert plan["full_token_bytes"] == plan["dense_token_bytes"] / 2
    assert plan["pool_bytes"] <= plan["kv_budget_bytes"]
    assert plan["weight_bytes"] == sum_of_parameters() * 2


def sum_of_parameters() -> int:
    from safetensors import safe_open

    from rlkv.models import MODELS_FOLDER

    with safe_open(MODELS_FOLDER / "tiny-reasoner" / "model.safetensors", "pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 - not a dict


@pytest.mark.parametrize(("tokens", "expected"), [(2000, "either cache"), (4000, "the full cache")])
def test_a_cache_without_room_for_one_request_is_pointed_out(tokens: int, expected: str) -> None:
    load = Load(prompt_tokens=1000, output_tokens=8000, requests=None)  # holds 5,000 tokens on average
    dense = forecast_dense(tokens * 128, load, 1, SHAPE, weight_bytes=1000, bandwidth=1e6)
    hybrid = forecast_hybrid(tokens * 128, load, DEMAND, SHAPE, weight_bytes=1000, bandwidth=1e6)
    assert caveats(dense, hybrid, load, DEMAND.window)[0].startswith(
        f"no room: {expected} holds less than one"
    )
