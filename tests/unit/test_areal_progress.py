"""The progress line of an asynchronous run."""

from __future__ import annotations

import pytest
from rlkv_patches.areal.progress import MEAN_GATE, RESPONSE_TOKENS, REWARD, STALENESS, StepLine


def test_line_shows_what_a_person_wants_to_know() -> None:
    line = StepLine()
    line.start(10, 20, now=1000.0)
    stats = {REWARD: 0.75, MEAN_GATE: 0.4321, STALENESS: 1.5, RESPONSE_TOKENS: 24000.0}
    first = line.text(11, stats, now=1020.0)
    assert first == ("step 11/20  reward 0.750  mean gate 0.432  staleness 1.5  1,200 tokens/s  0:03:00 left")
    # Two steps in 60 s since this start, eight to go; the last of them took 40 s.
    second = line.text(12, stats, now=1060.0)
    assert second.endswith("600 tokens/s  0:04:00 left")


@pytest.mark.parametrize(("rewards", "times"), [([0, 0, 0, 0], 1), ([0, 0.1, 0, 0], 0), ([0, 0, 0.5], 0)])
def test_rewards_of_nothing_are_pointed_out_once(
    capsys: pytest.CaptureFixture, rewards: list[float], times: int
) -> None:
    line = StepLine()
    line.start(0, 9)
    for step, reward in enumerate(rewards):
        line.show(step + 1, {REWARD: reward, MEAN_GATE: 1.0, STALENESS: 0.0, RESPONSE_TOKENS: 9.0})
    assert capsys.readouterr().err.count("warning: no response of the first 3 steps was right") == times
