"""The budget of a comparison at equal KV memory, against counting."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from rlkv_eval.rivals.budget import Budget, sparsity_of

from rlkv.errors import ConfigError
from rlkv.window import Window

RATIOS = ("0.8", "0.6", "0.5", "0.4", "0.1", "1")


@pytest.mark.parametrize("reference", [0, 70])
@pytest.mark.parametrize("ratio", RATIOS)
def test_most_tokens_is_the_exact_floor(ratio: str, reference: int) -> None:
    budget = Budget(float(ratio), reference)
    lengths = torch.arange(1, 400)
    exact = [max(1, int(Fraction(ratio) * max(n, reference))) for n in lengths.tolist()]
    assert [budget.most(n) for n in lengths.tolist()] == exact
    assert budget.most_each(lengths).tolist() == exact


@pytest.mark.parametrize("length", [33, 322, 1000])
@pytest.mark.parametrize("ratio", ("0.8", "0.6", "0.5", "1"))
def test_sparsity_is_the_least_that_meets_the_budget(ratio: str, length: int) -> None:
    heads, window = 48, Window(4, 12)

    def held(streaming: int) -> int:
        return (heads - streaming) * length + streaming * min(window.size, length)

    expected = next(k for k in range(heads + 1) if held(k) <= Fraction(ratio) * heads * length)
    assert round(sparsity_of(float(ratio), heads, length, window) * heads) == expected


def test_a_budget_that_no_mask_meets_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"budget is 0.1, expected at least 0.160: at 100 tokens"):
        sparsity_of(0.1, 48, 100, Window(4, 12))


@pytest.mark.parametrize("ratio", [0.0, 1.5, -1.0, float("nan")])
def test_what_is_no_share_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match="expected a number in"):
        Budget(ratio)
