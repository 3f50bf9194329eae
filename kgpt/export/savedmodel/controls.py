"""The generation settings as inputs of SavedModel signatures, derived from `SamplingConfig`."""

from __future__ import annotations

from collections.abc import Sequence

import annotated_types
import tensorflow as tf

from kgpt.config import SamplingConfig

FIELD_NAMES = {"max_new_tokens": "max_tokens"}  # an input whose `SamplingConfig` field differs
CONTROLS = (
    "max_new_tokens", "min_tokens", "temperature", "top_k", "top_p", "min_p", "typical_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
)  # fmt: skip
RANDOM_SEED = -1  # the seed that requests a random one
# A pydantic bound, what it is called, and the operation that checks it.
BOUNDS = {
    annotated_types.Ge: ("ge", "greater than or equal to", tf.greater_equal),
    annotated_types.Gt: ("gt", "greater than", tf.greater),
    annotated_types.Le: ("le", "less than or equal to", tf.less_equal),
    annotated_types.Lt: ("lt", "less than", tf.less),
}


def control_specs() -> dict[str, tf.TensorSpec]:
    """The input of each control: (B,), or (1,) for one value for the whole batch."""
    return {name: tf.TensorSpec([None], _dtype(name), name) for name in CONTROLS} | {
        "stop": tf.TensorSpec([None], tf.string, "stop")
    }


def default_controls(config: SamplingConfig) -> dict[str, tf.Tensor]:
    """`config` as values of these inputs."""
    values = {name: getattr(config, FIELD_NAMES.get(name, name)) for name in CONTROLS}
    values["seed"] = RANDOM_SEED if config.seed is None else config.seed
    return {name: tf.constant([value], _dtype(name)) for name, value in values.items()} | {
        "stop": tf.constant(config.stop, tf.string)
    }


def check_controls(values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """`values` with assertions in the graph that they are within `SamplingConfig`'s bounds."""
    return {name: _within_bounds(name, value) for name, value in values.items()}


def broadcast_controls(batch_size: tf.Tensor, values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Each control as (B,), with a random seed where it is `RANDOM_SEED`."""
    controls = {name: tf.broadcast_to(values[name], [batch_size]) for name in CONTROLS}
    random = tf.random.uniform([batch_size], maxval=tf.int32.max, dtype=tf.int32)
    return controls | {"seed": tf.where(controls["seed"] < 0, random, controls["seed"])}


def _dtype(name: str) -> tf.DType:
    annotation = SamplingConfig.model_fields[FIELD_NAMES.get(name, name)].annotation
    return tf.float32 if annotation is float else tf.int32


def _within_bounds(name: str, value: tf.Tensor) -> tf.Tensor:
    if name == "stop":
        return value
    checks = []
    for bound in _bounds(name):
        if type(bound) not in BOUNDS:
            continue
        attribute, words, holds = BOUNDS[type(bound)]
        limit = getattr(bound, attribute)
        if limit >= 2**31:  # implied by the dtype of the input
            continue
        message = f"{name} should be {words} {limit}"
        checks.append(tf.debugging.Assert(tf.reduce_all(holds(value, limit)), [message]))
    with tf.control_dependencies(checks):
        return tf.identity(value)


def _bounds(name: str) -> Sequence[object]:
    if name == "seed":
        return [annotated_types.Ge(RANDOM_SEED)]
    return SamplingConfig.model_fields[FIELD_NAMES.get(name, name)].metadata
