"""Models that are loaded to write, and to do nothing else: faster, and in fewer bits if wanted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from kgpt import backend
from kgpt.config import WritingType
from kgpt.model.directory import load_model
from kgpt.model.gpt import GPT
from kgpt.model.holding import InEightBits, InReadingOrder


def load_to_write(folder: Path, dtype: WritingType = "float32") -> GPT:
    """The model of a model directory; of one in 8 bits one part at a time is there as floats."""
    return made_to_write(partial(load_model, folder), dtype)


def made_to_write(make: Callable[..., GPT], dtype: WritingType = "float32") -> GPT:
    """`make(dtype=, holding=)`: a `GPT` that can neither be trained nor saved."""
    if dtype == "int8":
        return make(dtype="float32", holding=InEightBits())
    return make(dtype=dtype, holding=InReadingOrder() if backend.holds_turned() else None)
