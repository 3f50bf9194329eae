"""Models that are loaded to write: in half precision or in 8 bits, if that is wanted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kgpt.config import WritingType
from kgpt.model.directory import load_model
from kgpt.model.eight_bits import hold_in_8_bits
from kgpt.model.gpt import GPT


def load_to_write(folder: Path, dtype: WritingType = "float32") -> GPT:
    """The model of a model directory; of one in 8 bits the floats are there for a moment."""
    return made_to_write(lambda kind: load_model(folder, dtype=kind), dtype)


def made_to_write(make: Callable[[str], GPT], dtype: WritingType = "float32") -> GPT:
    """`make(dtype)`, which "int8" makes of float32."""
    model = make("float32" if dtype == "int8" else dtype)
    if dtype == "int8":
        hold_in_8_bits(model)
    return model
