"""LayerNorm (Ba et al., 2016) and RMSNorm (Zhang & Sennrich, 2019), over the last axis."""

import keras

from kgpt import backend


@keras.saving.register_keras_serializable("kgpt")
class LayerNorm(keras.layers.Layer):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias; (..., D) to (..., D)."""

    def __init__(self, epsilon=1e-5, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.use_bias = use_bias

    def build(self, input_shape):
        width = (input_shape[-1],)
        # Normalisation is computed in float32 whatever the policy, and so are its weights.
        kept = {"shape": width, "dtype": "float32", "autocast": False}
        self.scale = self.add_weight(name="scale", initializer="ones", **kept)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", initializer="zeros", **kept)

    def call(self, x):
        return backend.layer_norm(x, self.scale, self.bias, self.epsilon)

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon, "use_bias": self.use_bias}


@keras.saving.register_keras_serializable("kgpt")
class RMSNorm(keras.layers.Layer):
    """x / sqrt(mean(x^2) + epsilon) * scale; (..., D) to (..., D)."""

    def __init__(self, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        width = (input_shape[-1],)
        self.scale = self.add_weight(
            name="scale", shape=width, initializer="ones", dtype="float32", autocast=False
        )

    def call(self, x):
        return backend.rms_norm(x, self.scale, self.epsilon)

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


def make_norm(kind, epsilon, use_bias, **kwargs):
    """The norm layer that `ModelConfig.norm` names: "layer" or "rms"."""
    if kind == "rms":
        return RMSNorm(epsilon, **kwargs)
    return LayerNorm(epsilon, use_bias, **kwargs)
