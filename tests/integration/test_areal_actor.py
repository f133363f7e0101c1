"""The actor on a real AReaL: packed attention, a step on one rank and on two, checkpoints, NaN."""

from __future__ import annotations

import itertools
import json
import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from areal_ranks import run_ranks

pytestmark = pytest.mark.skipif(find_spec("areal") is None, reason="AReaL is not installed: make areal")

RANK = Path(__file__).with_name("areal_actor.py")
REWARD_MEANS = (2 / 3, 1 / 3, 1.0)
BETA, THRESHOLD = 0.01, 0.5
"""Of the tiny recipe; the rewards are those of areal_actor.py."""


@cache
def ran(folder: Path, ranks: int, scope: str = "") -> dict[str, Any]:
    """What the first of some ranks saw."""
    out = folder / f"{ranks}{scope}.json"
    run_ranks(RANK, ranks, str(out), scope)
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("actor")


def largest_difference(one: list[list[float]], other: list[list[float]]) -> float:
    pairs = zip(itertools.chain(*one), itertools.chain(*other), strict=True)
    return max(abs(a - b) for a, b in pairs)


def test_packed_sequences_have_the_log_probabilities_of_single_ones(folder: Path) -> None:
    assert ran(folder, 1)["packed_gap"] < 1e-5


def test_penalty_follows_the_mean_reward_of_each_group(folder: Path) -> None:
    expected = sum(BETA * math.expm1(mean) for mean in REWARD_MEANS if mean > THRESHOLD) / 3
    assert ran(folder, 1)["penalty0"] == pytest.approx(expected, rel=1e-6)


def test_penalty_follows_the_mean_reward_of_each_micro_batch(folder: Path) -> None:
    """65 tokens hold responses of 64 | 50 and 12 | 40 and 23 | 33 and 31 | 21 and 17: means 1, ½, 1, ½, ½."""
    seen = ran(folder, 1, "micro-batch")
    one = BETA * math.expm1(1.0)
    assert sorted(seen["weights0"]) == pytest.approx([0, 0, 0, one, one], rel=1e-6)
    assert seen["penalty0"] == pytest.approx(2 / 5 * one, rel=1e-6)


def test_gates_move_and_nothing_is_off_when_the_servers_numbers_are_the_trainers(folder: Path) -> None:
    seen = ran(folder, 1)
    assert largest_difference(seen["before"], seen["gates1"]) > 0.01
    assert seen["server_gap0"] < 1e-5


def test_checkpoint_holds_gates_and_moments(folder: Path) -> None:
    seen = ran(folder, 1)
    assert seen["loaded"] == seen["gates1"]
    assert seen["moments_equal"]
    assert sorted(path.name for path in (folder / "saved1").iterdir()) == [
        "gates.safetensors",
        "optimizer.safetensors",
    ]


def test_nan_changes_no_gate_and_ends_the_run_when_it_stays(folder: Path) -> None:
    seen = ran(folder, 1)
    assert seen["after_nan"] == seen["gates1"]
    assert seen["ended"].startswith("the gradient of the gates is nan for 4 steps in a row")


@pytest.mark.full_matrix
def test_two_ranks_with_uneven_shares_take_the_step_of_one(folder: Path) -> None:
    one, two = ran(folder, 1), ran(folder, 2)
    assert two["packed_gap"] < 1e-5
    assert two["penalty0"] == pytest.approx(one["penalty0"], rel=1e-12)
    assert largest_difference(one["gates0"], two["gates0"]) < 1e-6
    # A gate whose gradient turned between the steps moves by the rounding of both: another order of the same
    # sums on one rank moves one of the 48 by 2e-5, of steps of 2e-2.
    assert largest_difference(one["gates1"], two["gates1"]) < 1e-4
