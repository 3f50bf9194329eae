"""One transformer block, pre-norm: x + attention(norm(x)), then x + mlp(norm(x))."""

import keras

from kgpt import backend
from kgpt.config import ModelConfig
from kgpt.model.attention import CausalSelfAttention
from kgpt.model.dropout import Dropout
from kgpt.model.initializers import Normal
from kgpt.model.mlp import MLP
from kgpt.model.norms import make_norm


@keras.saving.register_keras_serializable("kgpt")
class Block(keras.layers.Layer):
    """(B, T, D) to (B, T, D).

    Args:
        config: the model's `ModelConfig`, or its dictionary.
        initializer: the `Normal` of this block. The projections back into the residual stream
            start 1 / sqrt(2 num_layers) as large, as in GPT-2.
        remat: recompute the block's activations in the backward pass.
    """

    def __init__(self, config, initializer=None, remat=False, **kwargs):
        super().__init__(**kwargs)
        self.config = config = ModelConfig.model_validate(config)
        self.initializer = keras.initializers.get(initializer) or Normal(config.initializer_range)
        self.remat = remat
        residual = (2 * config.num_layers) ** -0.5
        policy = self.dtype_policy
        norm = (config.norm, config.norm_epsilon, config.bias)
        self.attention_norm = make_norm(*norm, name="attention_norm", dtype=policy)
        self.attention = CausalSelfAttention(
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            rope_theta=config.rope_theta if config.position == "rotary" else None,
            rope_scaling=config.rope_scaling,
            use_qkv_bias=config.qkv_bias,
            use_output_bias=config.bias,
            use_qk_norm=config.qk_norm,
            window=config.sliding_window,
            dropout=config.dropout,
            epsilon=config.norm_epsilon,
            kernel_initializer=self.initializer.named("attention/qkv"),
            output_initializer=self.initializer.named("attention/output", residual),
            name="attention",
            dtype=policy,
        )
        self.attention_drop = Dropout(config.dropout, name="attention_dropout", dtype=policy)
        self.mlp_norm = make_norm(*norm, name="mlp_norm", dtype=policy)
        self.mlp = MLP(
            config.intermediate_dim,
            config.activation,
            config.mlp_bias,
            kernel_initializer=self.initializer.named("mlp/up"),
            output_initializer=self.initializer.named("mlp/down", residual),
            name="mlp",
            dtype=policy,
        )
        self.mlp_drop = Dropout(config.dropout, name="mlp_dropout", dtype=policy)

    def build(self, input_shape):
        for layer in (
            self.attention_norm, self.attention, self.attention_drop,
            self.mlp_norm, self.mlp, self.mlp_drop,
        ):  # fmt: skip
            layer.build(input_shape)

    @property
    def linears(self):
        """The block's matrix products, in the order of their weights."""
        attention, mlp = self.attention, self.mlp
        return [attention.qkv, attention.output_projection, mlp.up, mlp.down]

    def call(self, x, key=None):
        if self.remat and key is not None:
            return backend.remat(self._forward)(x, key)
        return self._forward(x, key)

    def _forward(self, x, key):
        x = x + self.attention_drop(self.attention(self.attention_norm(x), key), key)
        return x + self.mlp_drop(self.mlp(self.mlp_norm(x)), key)

    def call_with_cache(self, x, update, keys, values):
        """Like `call`, with one layer's cache; see `CausalSelfAttention.call_with_cache`."""
        normed = self.attention_norm(x)
        heads, keys, values = self.attention.call_with_cache(normed, update, keys, values)
        x = x + heads
        return x + self.mlp(self.mlp_norm(x)), keys, values

    def get_config(self):
        return {
            **super().get_config(),
            "config": self.config.model_dump(),
            "initializer": keras.initializers.serialize(self.initializer),
            "remat": self.remat,
        }
