"""The feed-forward layer: GELU as in GPT-2, or SwiGLU as in Llama."""

import keras
from keras import ops

from kgpt import backend
from kgpt.model.initializers import Normal
from kgpt.model.linear import Linear


@keras.saving.register_keras_serializable("kgpt")
class MLP(keras.layers.Layer):
    """x to activation(x @ up) @ down; SwiGLU (Shazeer, 2020) has a gate beside `up`.

    Args:
        intermediate_dim: F, width of the hidden layer.
        activation: "gelu" (exact), "gelu_tanh" (GPT-2's) or "swiglu".
        use_bias: biases of both products.
        kernel_initializer: a `Normal`, for `up`.
        output_initializer: a `Normal`, for `down`.
    """

    def __init__(
        self,
        intermediate_dim,
        activation="gelu_tanh",
        use_bias=True,
        kernel_initializer=None,
        output_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.intermediate_dim = intermediate_dim
        self.activation = activation
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer) or Normal()
        self.output_initializer = keras.initializers.get(output_initializer) or Normal()
        self.up = Linear("up", self.kernel_initializer)
        self.down = Linear("down", self.output_initializer)

    def build(self, input_shape):
        width = input_shape[-1]
        # SwiGLU's gate and value are one product: (D, 2F), the gate first.
        hidden = self.intermediate_dim * (2 if self.activation == "swiglu" else 1)
        self.up.build(self, (width, hidden))
        self.down.build(self, (self.intermediate_dim, width))
        if self.use_bias:
            self.up.add_bias(self, hidden)
            self.down.add_bias(self, width)

    def call(self, x):
        hidden = self.up(x)  # (B, T, F), or (B, T, 2F) with a gate
        return self.down(self.activate(hidden))  # (B, T, D)

    def activate(self, hidden):
        if self.activation == "swiglu":
            gate, value = ops.split(hidden, 2, axis=-1)
            return ops.silu(gate) * value
        if self.activation == "gelu_tanh":
            return backend.gelu_tanh(hidden)
        return ops.gelu(hidden, approximate=False)

    def get_config(self):
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "activation": self.activation,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
        }
