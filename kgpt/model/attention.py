"""Causal self-attention: multi-head or grouped, rotary or not, with an optional sliding window."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from kgpt import backend
from kgpt.backend.attention import scaled
from kgpt.config import RopeScaling
from kgpt.config.distribute import HEADS
from kgpt.model.initializers import Normal
from kgpt.model.kv_cache import CacheUpdate, LayerCache
from kgpt.model.layers import Dropout, RMSNorm
from kgpt.model.linear import Linear
from kgpt.model.prefix import Prefix

Tensor = Any


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

    Attributes:
        prefix: trained keys and values before those of the text; see `model/prefix.py`.
    """

    prefix: Prefix | None = None

    def __init__(
        self,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        rope_theta: float | None = None,
        rope_scaling: RopeScaling | dict[str, Any] | None = None,
        use_qkv_bias: bool = True,
        use_output_bias: bool = True,
        use_qk_norm: bool = False,
        window: int | None = None,
        dropout: float = 0.0,
        epsilon: float = 1e-5,
        kernel_initializer: Any = None,
        output_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.rope_theta = rope_theta
        self.rope_scaling = RopeScaling.model_validate(rope_scaling) if rope_scaling else None
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
            rotary = rotary_frequencies(head_dim, rope_theta, self.rope_scaling)
            self.rotary = Rotary(backend.constant(rotary.frequencies), rotary.magnitude)

    def build(self, input_shape: Any) -> None:
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

    def project(
        self,
        x: Tensor,
        positions: Tensor,
        adapter_key: Tensor | None = None,
        adapter_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x (B, T, D).

        Args:
            x: (B, T, D).
            positions: (T,) or (B, T) integers; used by rotary models only.
            adapter_key: (2,) switches the dropout of adapters on.
            adapter_ids: (B,) the adapter of each row.

        Returns:
            query (B, T, N, H), ready for the softmax, key (B, T, K, H), value (B, T, K, H).
        """
        fused = self.qkv(x, adapter_key, adapter_ids)  # (B, T, (N + 2K) H)
        batch, length = ops.shape(x)[0], ops.shape(x)[1]
        n, k = self.num_heads, self.num_kv_heads
        fused = ops.reshape(fused, (batch, length, n + 2 * k, self.head_dim))
        parts = backend.split(fused, (n, k, k), axis=2)
        query, key, value = (backend.distribution.constrain(part, HEADS) for part in parts)
        if self.use_qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        if self.rope_theta is not None:
            query = rotate(query, positions, self.rotary)
            key = rotate(key, positions, self.rotary)
        return scaled(query), key, value

    def combine(
        self, heads: Tensor, adapter_key: Tensor | None = None, adapter_ids: Tensor | None = None
    ) -> Tensor:
        """Heads (B, T, N, H) back to the residual stream (B, T, D)."""
        batch, length = ops.shape(heads)[0], ops.shape(heads)[1]
        flat = ops.reshape(heads, (batch, length, self.num_heads * self.head_dim))
        return self.output_projection(flat, adapter_key, adapter_ids)

    def call(
        self,
        x: Tensor,
        key: Tensor | None = None,
        adapter_key: Tensor | None = None,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
    ) -> Tensor:
        """Attention of each sequence on itself.

        Args:
            x: (B, T, D).
            key, adapter_key: (2,) switch dropout on, and that of adapters.
            positions, segment_ids: (B, T) of packed sequences; see `Segments`.

        Returns:
            (B, T, D).
        """
        if positions is None:
            positions = ops.arange(ops.shape(x)[1])
        if self.prefix is not None:
            positions = positions + len(self.prefix)
        query, keys, values = self.project(x, positions, adapter_key)
        drop = None
        if key is not None and self.dropout:
            drop = lambda weights: self.drop(weights, key)  # noqa: E731
        if self.prefix is not None:
            heads = self.prefix.attend(query, keys, values, drop, segment_ids)
        else:
            heads = backend.causal_attention(query, keys, values, self.window, drop, segment_ids)
        return self.combine(heads, adapter_key)

    def call_with_cache(
        self, x: Tensor, update: CacheUpdate, layer: LayerCache
    ) -> tuple[Tensor, LayerCache]:
        """Like `call`, for new tokens that continue the sequences in a cache.

        Args:
            x: (B, T, D).
            update: the `CacheUpdate` of the new tokens.
            layer: one layer's cache.

        Returns:
            (B, T, D), and the cache with the new tokens stored.
        """
        query, key, value = self.project(x, update.positions, None, update.adapter_ids)
        query, key, value = (ops.transpose(t, (0, 2, 1, 3)) for t in (query, key, value))
        layer = update.store(layer, key, value)
        heads = backend.cached_attention(query, layer, update.mask, update.filled)  # (B, N, T, H)
        heads = ops.transpose(heads, (0, 2, 1, 3))
        return self.combine(heads, None, update.adapter_ids), layer

    def get_config(self) -> dict[str, Any]:
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


class Rotary(NamedTuple):
    """Rotary positions of heads of dimension H.

    Attributes:
        frequencies: (H / 2,), the angle by which each pair turns per position.
        magnitude: factor on the rotated head.
    """

    frequencies: Any
    magnitude: float = 1.0


def rotary_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> Rotary:
    """The rotary positions of heads of dimension `head_dim` H.

    theta ** (-2i / H), from RoFormer (Su et al., 2021), then stretched as `scaling` says. The rule
    "dynamic" changes nothing up to the model's `max_length`, the longest text that kgpt shows it.
    """
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype="float64") / head_dim)
    magnitude = 1.0
    if scaling is not None and scaling.type == "linear":
        frequencies = frequencies / scaling.factor
    elif scaling is not None and scaling.type == "llama3":
        frequencies = _llama3(frequencies, scaling)
    elif scaling is not None and scaling.type == "yarn":
        frequencies = _yarn(frequencies, theta, scaling)
        magnitude = scaling.attention_factor or 0.1 * math.log(scaling.factor) + 1.0
    return Rotary(frequencies.astype("float32"), magnitude)


def _llama3(frequencies: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Llama 3.1's rule: long waves are stretched, short ones are not, those between in part."""
    assert scaling.original_max_length is not None, "ModelConfig fills it in"
    turns = scaling.original_max_length * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)


def _yarn(frequencies: np.ndarray, theta: float, scaling: RopeScaling) -> np.ndarray:
    """YaRN (Peng et al., 2023): the share kept of each frequency falls along the pairs of a head
    from `beta_fast` turns in the original context to `beta_slow`."""
    assert scaling.original_max_length is not None, "ModelConfig fills it in"
    half, original_length = len(frequencies), scaling.original_max_length

    def pair_with(turns: float) -> float:
        return half * math.log(original_length / (turns * 2 * math.pi)) / math.log(theta)

    first, last = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * half - 1)
    last = last if last != first else first + 0.001
    kept = 1 - np.clip((np.arange(half) - first) / (last - first), 0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)


def rotate(x: Tensor, positions: Tensor, rotary: Rotary) -> Tensor:
    """Turn the halves of each head by position-dependent angles, as Llama does.

    Args:
        x: (B, T, N, H) queries or keys.
        positions: (T,) or (B, T) integers.
        rotary: from `rotary_frequencies`.

    Returns:
        (B, T, N, H) of the type of x; the angles are computed in float32.
    """
    frequencies, magnitude = rotary
    frequencies = ops.convert_to_tensor(frequencies, "float32")
    angles = ops.cast(positions, "float32")[..., None] * frequencies  # (..., T, H / 2)
    cos, sin = ops.cos(angles)[..., None, :], ops.sin(angles)[..., None, :]  # (..., T, 1, H / 2)
    if magnitude != 1.0:
        cos, sin = cos * magnitude, sin * magnitude
    first, second = ops.split(ops.cast(x, "float32"), 2, axis=-1)
    turned = ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return ops.cast(turned, x.dtype)
