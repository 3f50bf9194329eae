"""The precisions of a computation, and the dtype of each."""

from __future__ import annotations

from typing import Literal

# float32 multiplies in float32 on every device; tensorfloat32 has float32 weights and activations,
# but a GPU rounds the inputs of its matrix products to TF32 (a mantissa of 10 bits).
Precision = Literal["float32", "tensorfloat32", "bfloat16", "float16"]
# Of inference; int8 quantizes the linear layers, the rest is float32 then.
InferenceDtype = Literal[Precision, "int8"]


def compute_dtype(precision: InferenceDtype) -> str:
    """The dtype of activations in `precision`: float32, bfloat16 or float16."""
    return "float32" if precision in ("tensorfloat32", "int8") else precision


def allows_tf32(precision: InferenceDtype) -> bool:
    """Whether a GPU may multiply float32 matrices in TF32: wherever not all is float32 anyway."""
    return precision not in ("float32", "int8")
