"""Errors that a user can act on.

Every message is one line that names the thing, what was found and what was expected. The command line
prints it and exits with status 2; anything else that escapes is a bug and keeps its traceback.
"""


class RLKVError(Exception):
    """Base of all errors caused by input, configuration or environment."""


class HeadsFileError(RLKVError):
    """A heads file is missing, malformed, or was made for another model."""


class ConfigError(RLKVError):
    """An option or a combination of options is invalid."""


class DataError(RLKVError):
    """A data set, run folder or checkpoint is missing, incomplete or belongs to something else."""


class TrainingError(RLKVError):
    """A training run cannot go on; what it has learned so far is in its checkpoints."""


class UnsupportedError(RLKVError):
    """The request is well formed, but this method or cache cannot serve it."""
