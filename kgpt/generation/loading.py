"""Models that are loaded to write, and to do nothing else: faster, and in fewer bits if wanted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kgpt import backend
from kgpt.config import WritingType
from kgpt.model.directory import load_model
from kgpt.model.gpt import GPT
from kgpt.model.holding import hold_in_8_bits, hold_turned


def load_to_write(folder: Path, dtype: WritingType = "float32") -> GPT:
    """The model of a model directory; of one in 8 bits the floats are there for a moment."""
    return made_to_write(lambda kind: load_model(folder, dtype=kind), dtype)


def made_to_write(make: Callable[[str], GPT], dtype: WritingType = "float32") -> GPT:
    """`make(dtype)`, which "int8" makes of float32. It can neither be trained nor saved."""
    model = make("float32" if dtype == "int8" else dtype)
    if dtype == "int8":
        hold_in_8_bits(model)
    elif backend.holds_turned():
        hold_turned(model)
    return model
