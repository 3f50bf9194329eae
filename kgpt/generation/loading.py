"""Models that are loaded to write, and to do nothing else: faster, and in fewer bits if wanted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from kgpt import backend
from kgpt.checkpoints.pretrained import load_model
from kgpt.config import InferenceDtype
from kgpt.model.gpt import GPT
from kgpt.model.inference_weights import InEightBits, InReadingOrder


def load_for_inference(folder: Path, dtype: InferenceDtype = "float32") -> GPT:
    """The model of a model directory; of one in 8 bits one part at a time is there as floats."""
    return build_for_inference(partial(load_model, folder), dtype)


def build_for_inference(make: Callable[..., GPT], dtype: InferenceDtype = "float32") -> GPT:
    """`make(dtype=, holding=)`: a `GPT` that can neither be trained nor saved."""
    if dtype == "int8":
        return make(dtype="float32", holding=InEightBits())
    if backend.prefers_transposed_weights():
        return make(dtype=dtype, holding=InReadingOrder())
    model = make(dtype=dtype)
    backend.transpose_weights_inplace(model.kernels)
    return model
