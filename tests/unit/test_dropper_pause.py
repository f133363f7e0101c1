"""Droppings that are some steps apart: the budget holds at every step, and a method keeps what it needs."""

from __future__ import annotations

import pytest
import torch
from rlkv_eval.rivals.budget import Budget
from rlkv_eval.rivals.pause import Pause

PROMPTS = torch.tensor([5, 30, 90, 160])
STEPS = 500


@pytest.mark.parametrize("ratio", [0.2, 0.4, 0.8, 1.0])
@pytest.mark.parametrize("reference_length", [0, 300])
@pytest.mark.parametrize("interval", [1, 4, 128])
def test_what_is_held_is_within_the_budget_and_enough(
    interval: int, reference_length: int, ratio: float
) -> None:
    budget, held, least = Budget(ratio, reference_length), PROMPTS.clone(), 9
    for step in range(STEPS):
        lengths, pause = PROMPTS + step, Pause(step, interval, least)
        held += step > 0
        counts = pause.counts(budget, lengths)
        if pause.all_wait(budget, int(lengths.min())) and pause.since:
            assert (held <= counts).all()  # nothing to drop, so that nothing need be asked
        held = torch.minimum(held, counts)
        allowed = torch.minimum(budget.most_each(lengths), lengths)
        needed = max(least, interval - 1)  # room is at most half of what is held when it is used up
        assert (held <= allowed).all()
        assert (held >= allowed.clamp(max=needed)).all()


def test_a_step_after_which_every_row_waits_keeps_room_for_the_next_ones() -> None:
    lengths = torch.tensor([400])
    kept = [int(Pause(step, 4, 9).counts(Budget(0.5), lengths + step)) for step in range(6)]
    assert kept == [198, 199, 200, 201, 200, 201]  # floor((400 + 3) / 2) - 3 and what comes after it
