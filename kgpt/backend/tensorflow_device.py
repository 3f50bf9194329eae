"""TensorFlow on its device: the precision of matrix products."""

from __future__ import annotations

import tensorflow as tf

from kgpt.config import InferenceDtype, allows_tf32


def set_precision(precision: InferenceDtype) -> None:
    """Multiply float32 matrices as `precision` says, in the whole process."""
    tf.config.experimental.enable_tensor_float_32_execution(allows_tf32(precision))
