"""One line that says how a training run is doing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlkv.train.rewards import FirstRewards

SHOWN = {
    "reward": "reward",
    "distillation": "distillation",
    "gate/mean": "mean gate",
    "gate/sparsity_at_0.5": "below 0.5",
    "completions/mean_length": "tokens",
}
"""Logged name → what the line calls it."""


class TrainingLine:
    """A bar with the metrics and the time left; without a terminal, a plain line every tenth of the run."""

    def __init__(self) -> None:
        columns = (
            TextColumn("training"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.console = Console(stderr=True, highlight=False)
        self.progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task: TaskID | None = None
        self.steps = 0
        self.rewards = FirstRewards()

    def start(self, step: int, steps: int) -> None:
        """Begin, ``step`` of ``steps`` already taken."""
        self.steps = steps
        self.task = self.progress.add_task("", total=steps, completed=step, state="")
        self.progress.start()

    def show(self, step: int, logs: Mapping[str, float]) -> None:
        """Bring the line up to date with what was logged at ``step``."""
        values = {text: logs[name] for name, text in SHOWN.items() if name in logs}
        if not values or self.task is None:
            return
        line = "  ".join(f"{text} {value:.3g}" for text, value in values.items())
        self.progress.update(self.task, completed=step, state=line)
        if not self.console.is_terminal and step % max(1, self.steps // 10) == 0:
            self.console.print(f"step {step}/{self.steps}  {line}")
        if "reward" in logs and (warning := self.rewards.warning(logs["reward"])):
            self.console.print(f"warning: {warning}", soft_wrap=True)

    def stop(self) -> None:
        """Leave the last state on the screen."""
        self.progress.stop()


class ProgressLine(TrainerCallback):
    """``TrainingLine`` for a trainer of transformers."""

    def __init__(self) -> None:
        self.line = TrainingLine()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.line.start(state.global_step, state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.line.show(state.global_step, logs or {})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.line.stop()
