"""Causal self-attention: multi-head or grouped, rotary or not, with an optional sliding window."""

import keras
from keras import ops

from kgpt import backend
from kgpt.backend.attention import attention_with_dropout, scaled
from kgpt.config import RopeScaling
from kgpt.model.dropout import Dropout
from kgpt.model.initializers import Normal
from kgpt.model.linear import Linear
from kgpt.model.norms import RMSNorm
from kgpt.model.positions import rotary_frequencies, rotate


@keras.saving.register_keras_serializable("kgpt")
class CausalSelfAttention(keras.layers.Layer):
    """Each token attends to itself and the tokens before it.

    Query, key and value are one product, `qkv`: (D, (N + 2K) H), in that order.

    Args:
        num_heads: N, query heads.
        num_kv_heads: K, key/value heads; each serves N / K query heads.
        head_dim: H, width of a head.
        rope_theta: base of the rotary positions; None for a model without them.
        rope_scaling: how they are stretched: a `RopeScaling` or its dictionary.
        use_qkv_bias: biases of query, key and value.
        use_output_bias: bias of the output projection.
        use_qk_norm: RMSNorm on each head's queries and keys, before the rotation.
        window: each token sees at most so many tokens, itself included; None sees all.
        dropout: rate on the attention weights.
        epsilon: of the query/key norm.
        kernel_initializer: a `Normal`, for `qkv`.
        output_initializer: a `Normal`, for `output`.
    """

    def __init__(
        self,
        num_heads,
        num_kv_heads,
        head_dim,
        rope_theta=None,
        rope_scaling=None,
        use_qkv_bias=True,
        use_output_bias=True,
        use_qk_norm=False,
        window=None,
        dropout=0.0,
        epsilon=1e-5,
        kernel_initializer=None,
        output_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.rope_theta = rope_theta
        self.rope_scaling = rope_scaling and RopeScaling.model_validate(rope_scaling)
        self.use_qkv_bias = use_qkv_bias
        self.use_output_bias = use_output_bias
        self.use_qk_norm = use_qk_norm
        self.window = window
        self.dropout = dropout
        self.epsilon = epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer) or Normal()
        self.output_initializer = keras.initializers.get(output_initializer) or Normal()
        self.qkv = Linear("qkv", self.kernel_initializer)
        self.output_projection = Linear("output", self.output_initializer)
        self.drop = Dropout(dropout, name="dropout", dtype=self.dtype_policy)
        if use_qk_norm:
            self.query_norm = RMSNorm(epsilon, name="query_norm", dtype=self.dtype_policy)
            self.key_norm = RMSNorm(epsilon, name="key_norm", dtype=self.dtype_policy)
        if rope_theta is not None:
            self.frequencies = rotary_frequencies(head_dim, rope_theta, self.rope_scaling)

    def build(self, input_shape):
        width = input_shape[-1]
        heads = self.num_heads + 2 * self.num_kv_heads
        self.qkv.build(self, (width, heads * self.head_dim))
        self.output_projection.build(self, (self.num_heads * self.head_dim, width))
        if self.use_qkv_bias:
            self.qkv.add_bias(self, heads * self.head_dim)
        if self.use_output_bias:
            self.output_projection.add_bias(self, width)
        self.drop.build(None)
        if self.use_qk_norm:
            self.query_norm.build((self.head_dim,))
            self.key_norm.build((self.head_dim,))

    def project(self, x, positions):
        """Queries, keys and values of x (B, T, D).

        Args:
            x: (B, T, D).
            positions: (T,) or (B, T) integers; used by rotary models only.

        Returns:
            query (B, T, N, H), ready for the softmax, key (B, T, K, H), value (B, T, K, H).
        """
        fused = self.qkv(x)  # (B, T, (N + 2K) H)
        batch, length = ops.shape(x)[0], ops.shape(x)[1]
        n, k = self.num_heads, self.num_kv_heads
        fused = ops.reshape(fused, (batch, length, n + 2 * k, self.head_dim))
        query, key, value = fused[:, :, :n], fused[:, :, n : n + k], fused[:, :, n + k :]
        if self.use_qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        if self.rope_theta is not None:
            query = rotate(query, positions, self.frequencies)
            key = rotate(key, positions, self.frequencies)
        return scaled(query), key, value

    def combine(self, heads):
        """Heads (B, T, N, H) back to the residual stream (B, T, D)."""
        batch, length = ops.shape(heads)[0], ops.shape(heads)[1]
        flat = ops.reshape(heads, (batch, length, self.num_heads * self.head_dim))
        return self.output_projection(flat)

    def call(self, x, key=None):
        """x (B, T, D) to (B, T, D); `key` switches dropout on."""
        query, keys, values = self.project(x, ops.arange(ops.shape(x)[1]))
        if key is None or self.dropout == 0:
            heads = backend.causal_attention(query, keys, values, self.window)
        else:
            groups = self.num_heads // self.num_kv_heads
            keys, values = (ops.repeat(t, groups, axis=2) for t in (keys, values))
            heads = attention_with_dropout(
                query, keys, values, lambda weights: self.drop(weights, key), self.window
            )
        return self.combine(heads)

    def call_with_cache(self, x, update, keys, values):
        """Like `call`, for new tokens that continue the sequences in a cache.

        Args:
            x: (B, T, D).
            update: the `CacheUpdate` of the new tokens.
            keys, values: (B, K, S, H), one layer's cache.

        Returns:
            (B, T, D), and the keys and values with the new tokens stored.
        """
        query, key, value = self.project(x, update.positions)
        query, key, value = (ops.transpose(t, (0, 2, 1, 3)) for t in (query, key, value))
        keys = backend.update_cache(keys, key, update.indices)
        values = backend.update_cache(values, value, update.indices)
        heads = backend.cached_attention(query, keys, values, update.mask)  # (B, N, T, H)
        return self.combine(ops.transpose(heads, (0, 2, 1, 3))), keys, values

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling and self.rope_scaling.model_dump(),
            "use_qkv_bias": self.use_qkv_bias,
            "use_output_bias": self.use_output_bias,
            "use_qk_norm": self.use_qk_norm,
            "window": self.window,
            "dropout": self.dropout,
            "epsilon": self.epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
        }
