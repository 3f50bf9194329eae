"""Out of memory, on a device or the host: recognized on every backend, raised as one sentence."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator

from kgpt.errors import KgptError, OutOfMemoryError

# In the messages of RuntimeErrors: JAX raises no other type, PyTorch has a type of its own on GPUs
# alone, and Keras replaces an exception of a layer by one whose message quotes it.
MESSAGES = re.compile(
    r"RESOURCE_EXHAUSTED|out of memory|OOM when allocating|can't allocate memory|ALLOC_FAILED",
    re.IGNORECASE,
)
TYPES = ("OutOfMemoryError", "ResourceExhaustedError")  # of PyTorch and TensorFlow


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether `error`, or an error that caused it, says that memory could not be allocated."""
    while error is not None:
        if isinstance(error, MemoryError) or type(error).__name__ in TYPES:
            return True
        if isinstance(error, RuntimeError) and MESSAGES.search(str(error)):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        error = error.__cause__
    return False


@contextlib.contextmanager
def out_of_memory_as_kgpt(remedy: str) -> Iterator[None]:
    """Raise what a backend raises without memory as an `OutOfMemoryError` with a remedy."""
    try:
        yield
    except Exception as error:
        if isinstance(error, KgptError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"Out of memory; {remedy}.") from error
