"""One line that says how a training run is doing."""

from __future__ import annotations

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

SHOWN = {
    "reward": "reward",
    "gate/mean": "mean gate",
    "gate/sparsity_at_0.5": "below 0.5",
    "completions/mean_length": "tokens",
}
"""Logged name → what the line calls it."""


class ProgressLine(TrainerCallback):
    """A bar with reward, gates and time left; without a terminal, a plain line every tenth of the run."""

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

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.task = self.progress.add_task("", total=state.max_steps, completed=state.global_step, state="")
        self.progress.start()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        values = {text: logs[name] for name, text in SHOWN.items() if name in logs} if logs else {}
        if not values or self.task is None:
            return
        line = "  ".join(f"{text} {value:.3g}" for text, value in values.items())
        self.progress.update(self.task, completed=state.global_step, state=line)
        if not self.console.is_terminal and state.global_step % max(1, state.max_steps // 10) == 0:
            self.console.print(f"step {state.global_step}/{state.max_steps}  {line}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.progress.stop()
