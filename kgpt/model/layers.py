"""The small layers of a block: LayerNorm, RMSNorm, and dropout.

Norms are over the last axis (Ba et al., 2016; Zhang & Sennrich, 2019). Dropout's noise is a
function of a key, not of hidden state: the key is (seed, step) mixed with the layer's own number,
so that recomputing a block for gradient checkpointing, or resuming a run, draws the same mask on
every backend.
"""

from __future__ import annotations

import zlib
from typing import Any

import keras
import numpy as np
from keras import ops

from kgpt import backend

Tensor = Any


@keras.saving.register_keras_serializable("kgpt")
class LayerNorm(keras.layers.Layer):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias; (..., D) to (..., D)."""

    def __init__(self, epsilon: float = 1e-5, use_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.use_bias = use_bias

    def build(self, input_shape: Any) -> None:
        width = (input_shape[-1],)
        # Normalization is computed in float32 whatever the policy, and so are its weights.
        kept = {"shape": width, "dtype": "float32", "autocast": False}
        self.scale = self.add_weight(name="scale", initializer="ones", **kept)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", initializer="zeros", **kept)

    def call(self, x: Tensor) -> Tensor:
        return backend.layer_norm(x, self.scale, self.bias, self.epsilon)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon, "use_bias": self.use_bias}


@keras.saving.register_keras_serializable("kgpt")
class RMSNorm(keras.layers.Layer):
    """x / sqrt(mean(x^2) + epsilon) * scale; (..., D) to (..., D)."""

    def __init__(self, epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape: Any) -> None:
        width = (input_shape[-1],)
        self.scale = self.add_weight(
            name="scale", shape=width, initializer="ones", dtype="float32", autocast=False
        )

    def call(self, x: Tensor) -> Tensor:
        return backend.rms_norm(x, self.scale, self.epsilon)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}


def make_norm(kind: str, epsilon: float, use_bias: bool, **kwargs: Any) -> LayerNorm | RMSNorm:
    """The norm layer that `ModelConfig.norm` names: "layer" or "rms"."""
    if kind == "rms":
        return RMSNorm(epsilon, **kwargs)
    return LayerNorm(epsilon, use_bias, **kwargs)


@keras.saving.register_keras_serializable("kgpt")
class Dropout(keras.layers.Layer):
    """Zero a share `rate` of the inputs while training, and scale up the rest.

    Called with `key=None` it does nothing: that is how a model is evaluated. The key is mixed with
    the layer's salt by its caller, as a tensor, so that layers that differ in their salt alone can
    share compiled code.
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate

    def build(self, input_shape: Any) -> None:
        salt = zlib.crc32(self.path.encode()) & 0x7FFFFFFF
        self.salt = backend.constant(np.array([0, salt], "int32"))
        self.built = True

    def layer_key(self, step_key: Tensor) -> Tensor:
        """This layer's key, int32 (2,), from the key of the step."""
        return ops.bitwise_xor(step_key, self.salt)

    def call(self, x: Tensor, key: Tensor | None = None) -> Tensor:
        if key is None or self.rate == 0:
            return x
        return backend.dropout(x, self.rate, key)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}


class DropoutKey(keras.layers.Layer):
    """Counts training calls and gives each its key: int32 (2,), made of the seed and the count."""

    def __init__(self, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs, dtype="float32")
        self.seed = seed

    def build(self, input_shape: Any = None) -> None:
        self.count = self.add_weight(
            name="count", shape=(), dtype="int32", initializer="zeros", trainable=False
        )
        self.first = backend.constant(np.array([self.seed, 0], "int32"))
        self.increment = backend.constant(np.array([0, 1], "int32"))
        self.built = True

    def draw(self) -> Tensor:
        """The next key. No `call`: Keras has none without arguments."""
        self.count.assign(self.count.value + 1)
        return self.first + self.increment * self.count.value


def sinusoids(length: int, width: int) -> np.ndarray:
    """(length, width): the fixed positions of the first Transformer (Vaswani et al., 2017)."""
    half = (width + 1) // 2
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(half) / half)[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :width].astype("float32")
