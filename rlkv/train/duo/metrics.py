"""Where the numbers of a run go: the progress line and the loggers that the user named."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from accelerate import Accelerator

from rlkv.errors import ConfigError
from rlkv.train.duo.config import DuoConfig
from rlkv.train.progress import TrainingLine

LOGS = "runs"
"""Folder of the logs, where transformers puts them too."""


class Metrics:
    """A context manager; only the main process shows and logs anything.

    Args:
        config: of the run.
        step: steps already taken.
        is_main: whether this is the process that speaks.

    Raises:
        ConfigError: a logger that does not exist or is not installed.
    """

    def __init__(self, config: DuoConfig, step: int, is_main: bool) -> None:
        self._config, self._step = config, step
        self._line = TrainingLine() if is_main else None
        names = [name for name in config.report_to if name != "none"]
        try:
            self._loggers = Accelerator(log_with=names, project_dir=config.out) if is_main else None
        except ValueError as error:
            raise ConfigError(f"training: report_to is {config.report_to!r}: {error}") from error

    def __enter__(self) -> Metrics:
        if self._line and self._loggers:
            self._loggers.init_trackers(LOGS)
            self._line.start(self._step, self._config.steps)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._line and self._loggers:
            self._line.stop()
            for logger in self._loggers.trackers:  # end_training() would also take the processes apart
                logger.finish()

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Log what ``step`` gave."""
        if self._line and self._loggers:
            self._line.show(step, values)
            self._loggers.log({f"train/{name}": value for name, value in values.items()}, step=step)
