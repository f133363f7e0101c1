"""Whether a run earns anything: gates learn nothing from rewards that are all 0."""

from __future__ import annotations

STEPS = 3
"""First steps in which some response should be right: training data is what the model solves."""

WARNING = (
    f"no response of the first {STEPS} steps was right, so nothing is learned: expected data that this model "
    "solves (rlkv data; with --no-thinking if it writes no </think>) and responses long enough to end"
)


class FirstRewards:
    """Watches the first steps that a process takes."""

    def __init__(self) -> None:
        self.seen = 0
        self.best = 0.0

    def warning(self, reward: float) -> str | None:
        """What is to be said after a step of this mean reward, at most once a run."""
        self.seen += 1
        self.best = max(self.best, reward)
        return WARNING if self.seen == STEPS and self.best <= 0 else None
