"""The sampling controls as inputs of a SavedModel, rendered from `SamplingConfig`."""

from __future__ import annotations

from collections.abc import Sequence

import annotated_types
import tensorflow as tf

from kgpt.config import SamplingConfig

RENAMED = {"max_new_tokens": "max_tokens"}  # as other servers call it
CONTROLS = (
    "max_new_tokens", "min_tokens", "temperature", "top_k", "top_p", "min_p", "typical_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
)  # fmt: skip
RANDOM = -1  # the seed that stands for any


def control_specs() -> dict[str, tf.TensorSpec]:
    """An input for each control: (B,), or (1,) for one value that holds for all texts."""
    return {name: tf.TensorSpec([None], _dtype(name), name) for name in CONTROLS} | {
        "stop": tf.TensorSpec([None], tf.string, "stop")
    }


def default_controls(config: SamplingConfig) -> dict[str, tf.Tensor]:
    """`config` as values of these inputs."""
    values = {name: getattr(config, RENAMED.get(name, name)) for name in CONTROLS}
    values["seed"] = RANDOM if config.seed is None else config.seed
    return {name: tf.constant([value], _dtype(name)) for name, value in values.items()} | {
        "stop": tf.constant(config.stop, tf.string)
    }


def checked(values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """`values`, which fail when run outside the bounds that `SamplingConfig` declares."""
    return {name: _within_bounds(name, value) for name, value in values.items()}


def spread(rows: tf.Tensor, values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """One value of each control for each of `rows` texts; a random seed where -1 is asked for."""
    each = {name: tf.broadcast_to(values[name], [rows]) for name in CONTROLS}
    drawn = tf.random.uniform([rows], maxval=tf.int32.max, dtype=tf.int32)
    return each | {"seed": tf.where(each["seed"] < 0, drawn, each["seed"])}


def _dtype(name: str) -> tf.DType:
    annotation = SamplingConfig.model_fields[RENAMED.get(name, name)].annotation
    return tf.float32 if annotation is float else tf.int32


def _within_bounds(name: str, value: tf.Tensor) -> tf.Tensor:
    if name == "stop":
        return value
    checks = []
    for bound in _bounds(name):
        if isinstance(bound, annotated_types.Ge):
            limit, words, holds = bound.ge, "greater than or equal to", tf.greater_equal
        elif isinstance(bound, annotated_types.Gt):
            limit, words, holds = bound.gt, "greater than", tf.greater
        elif isinstance(bound, annotated_types.Le):
            limit, words, holds = bound.le, "less than or equal to", tf.less_equal
        elif isinstance(bound, annotated_types.Lt):
            limit, words, holds = bound.lt, "less than", tf.less
        else:
            continue
        if limit >= 2**31:  # the type of the input keeps this one
            continue
        message = f"{name} should be {words} {limit}"
        checks.append(tf.debugging.Assert(tf.reduce_all(holds(value, limit)), [message]))
    with tf.control_dependencies(checks):
        return tf.identity(value)


def _bounds(name: str) -> Sequence[object]:
    if name == "seed":
        return [annotated_types.Ge(RANDOM)]
    return SamplingConfig.model_fields[RENAMED.get(name, name)].metadata
