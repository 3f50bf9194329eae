"""Load or build models for inference only: weights prepacked for small batches, or quantized."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from kgpt import backend
from kgpt.checkpoints.pretrained import load_model
from kgpt.checkpoints.quantized import stored_dtype
from kgpt.config import DtypeOption, InferenceDtype, compute_dtype, weight_format
from kgpt.model.gpt import GPT
from kgpt.out_of_memory import out_of_memory_as_kgpt

LESS_MEMORY = (
    "lower max_num_seqs or max_context, or load the model with the dtype bfloat16, int8 "
    "or int4, which take a half, a quarter and less of float32"
)


@out_of_memory_as_kgpt(LESS_MEMORY)
def load_for_inference(folder: Path, dtype: DtypeOption = "auto") -> GPT:
    """The model of a model directory; weights are converted one at a time as they are read."""
    return build_for_inference(partial(load_model, folder), inference_dtype(folder, dtype))


def inference_dtype(folder: Path, dtype: DtypeOption = "auto") -> InferenceDtype:
    """`dtype`, and for "auto" the format of a quantized model directory, float32 of others."""
    return (stored_dtype(folder) or "float32") if dtype == "auto" else dtype


def build_for_inference(make: Callable[..., GPT], dtype: InferenceDtype = "float32") -> GPT:
    """`make(dtype=, weight_format=)`: a `GPT` that can neither be trained nor saved."""
    backend.set_precision(dtype)
    policy = compute_dtype(dtype)
    if quantized := weight_format(dtype):
        model = make(dtype=policy, weight_format=quantized)
        model.prepack_weights()
        return model
    if backend.prefers_transposed_weights():
        return make(dtype=policy, weight_format="transposed")
    model = make(dtype=policy)
    backend.transpose_weights_inplace(model.kernels)
    return model
