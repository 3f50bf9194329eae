"""The precisions of a computation, and the dtype of each."""

from __future__ import annotations

from typing import Literal

# float32 multiplies in float32 on every device; tensorfloat32 has float32 weights and activations,
# but a GPU rounds the inputs of its matrix products to TF32 (a mantissa of 10 bits).
Precision = Literal["float32", "tensorfloat32", "bfloat16", "float16"]
# Of inference; int8 and int4 quantize the weights of linear layers, the rest is float32 then.
QuantizedDtype = Literal["int8", "int4"]
InferenceDtype = Literal[Precision, QuantizedDtype]
# auto: int8 or int4 for a model directory that `kgpt quantize` wrote so, else float32.
DtypeOption = Literal["auto", InferenceDtype]
# Of the KV cache: auto is the dtype of the computation; int8 has a scale per token and head.
KVCacheDtype = Literal["auto", "float32", "bfloat16", "int8"]
KV_CACHE_HELP = (
    "Keys and values of the KV cache of generation; auto is the dtype of the computation; int8, "
    "with a scale per token and head, takes about a quarter of float32."
)
QUANTIZED_BITS: dict[str, int] = {"int8": 8, "int4": 4}
DTYPE_HELP = (
    "Weights and computation; auto is int8 or int4 for a model that `kgpt quantize` stored so, "
    "else float32; tensorfloat32 is float32 with the matrix products of a GPU in TF32; int8 "
    "quantizes the linear layers (W8A8), int4 their weights (group-wise), with embeddings and "
    "head in int8."
)


def compute_dtype(precision: InferenceDtype) -> str:
    """The dtype of activations in `precision`: float32, bfloat16 or float16."""
    return "float32" if precision in ("tensorfloat32", *QUANTIZED_BITS) else precision


def weight_format(precision: InferenceDtype) -> QuantizedDtype | None:
    """The format of quantized weights; None for a float precision."""
    return precision if precision == "int8" or precision == "int4" else None


def allows_tf32(precision: InferenceDtype) -> bool:
    """Whether a GPU may multiply float32 matrices in TF32: wherever not all is float32 anyway."""
    return precision not in ("float32", *QUANTIZED_BITS)
