"""One line a step that says how an asynchronous run is doing."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console

from rlkv.train.rewards import FirstRewards

REWARD = "ppo_actor/task_reward/avg"
RESPONSE_TOKENS = "ppo_actor/update/n_valid_tokens"
STALENESS = "ppo_actor/update/version_stats/sample_staleness_theta_avg"
MEAN_GATE = "ppo_actor/update/gate/mean"
"""Names under which AReaL exports what the line shows."""


class StepLine:
    """Prints step, reward, mean gate, staleness, tokens per second and time left on stderr."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.first = self.steps = 0
        self.started = self.last = 0.0
        self.rewards = FirstRewards()

    def start(self, step: int, steps: int, now: float | None = None) -> None:
        """Begin with ``step`` of ``steps`` taken."""
        self.first, self.steps = step, steps
        self.started = self.last = time.monotonic() if now is None else now

    def show(self, step: int, stats: Mapping[str, float]) -> None:
        """Say what AReaL logged at a step, which counts from 1."""
        self.console.print(self.text(step, stats, time.monotonic()), soft_wrap=True)
        if warning := self.rewards.warning(stats[REWARD]):
            self.warn(warning)

    def text(self, step: int, stats: Mapping[str, float], now: float) -> str:
        """The line for a step that ended ``now``, in seconds as ``start`` was given."""
        seconds, self.last = now - self.last, now
        left = (now - self.started) / (step - self.first) * (self.steps - step)
        return "  ".join(
            (
                f"step {step}/{self.steps}",
                f"reward {stats[REWARD]:.3f}",
                f"mean gate {stats[MEAN_GATE]:.3f}",
                f"staleness {stats[STALENESS]:.2g}",
                f"{stats[RESPONSE_TOKENS] / seconds:,.0f} tokens/s",
                f"{_duration(left)} left",
            )
        )

    def warn(self, text: str) -> None:
        """Say something that needs attention."""
        self.console.print(f"warning: {text}", soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
