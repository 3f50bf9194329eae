"""What can go wrong, said in one sentence with its remedy.

Everything a user can cause raises a `KgptError`: the command line prints its text and exits with
its `exit_code`, the server turns it into a 4xx answer, the terminal app shows it. Anything else
that escapes is a defect of kgpt.
"""


class KgptError(Exception):
    """Work that could not be done. `str(error)` is one sentence: what happened; what to do."""

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
    """Training stopped because going on would be pointless: the loss is no longer a number."""


class QueueFull(KgptError):
    """The engine has as many requests waiting as it takes; later there will be room."""
