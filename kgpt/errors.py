"""The exceptions of kgpt: each is one sentence that says what happened and what to do.

Every error that a user can cause is a `KgptError`: the command line prints it and exits with its
`exit_code`, the server responds with 4xx, the terminal app shows it. Any other exception is a bug.
"""


class KgptError(Exception):
    """An operation failed. `str(error)` is one sentence: what happened; what to do."""

    exit_code = 1


class UsageError(KgptError):
    """The command, a flag or a configuration value was wrong."""

    exit_code = 2


class DataError(KgptError):
    """A data set is missing, damaged or unusable."""


class CheckpointError(KgptError):
    """A checkpoint or model directory is missing, damaged or does not fit."""


class RunError(KgptError):
    """A run directory is in use, missing or in the wrong state."""


class TrainingFailed(KgptError):
    """Training diverged: the loss is NaN or infinite."""


class OutOfMemoryError(KgptError):
    """Memory ran out, of the GPU or the machine; the work may succeed with less at a time."""


class QueueFull(KgptError):
    """The engine's queue of requests is full; try again later."""
