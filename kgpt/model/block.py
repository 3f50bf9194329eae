"""One transformer block, pre-norm: x + attention(norm(x)), then x + mlp(norm(x))."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kgpt import backend
from kgpt.config import ModelConfig
from kgpt.config.distribute import HIDDEN
from kgpt.model.attention import CausalSelfAttention
from kgpt.model.initializers import Normal
from kgpt.model.inputs import Segments
from kgpt.model.kv_cache import CacheUpdate, LayerCache
from kgpt.model.layers import Dropout, make_norm
from kgpt.model.linear import Linear

Tensor = Any


@keras.saving.register_keras_serializable("kgpt")
class Block(keras.layers.Layer):
    """(B, T, D) to (B, T, D).

    Args:
        config: the model's `ModelConfig`, or its dictionary.
        initializer: the `Normal` of this block. The projections back into the residual stream
            start 1 / sqrt(2 num_layers) as large, as in GPT-2.
        remat: recompute the block's activations in the backward pass.
    """

    def __init__(
        self,
        config: ModelConfig | dict[str, Any],
        initializer: Any = None,
        remat: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.config = config = ModelConfig.model_validate(config)
        self.initializer = keras.initializers.get(initializer) or Normal(config.initializer_range)
        self.remat = remat
        self.compiled_transform: Any = None  # `GPT.compile` sets it
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
        # Gives a key only, which is of its name: runs of earlier versions resume with their masks.
        self.adapter_drop = Dropout(0.0, name="lora_dropout", dtype=policy)

    def build(self, input_shape: Any) -> None:
        for layer in (
            self.attention_norm, self.attention, self.attention_drop,
            self.mlp_norm, self.mlp, self.mlp_drop, self.adapter_drop,
        ):  # fmt: skip
            layer.build(input_shape)

    @property
    def structure(self) -> tuple[Any, ...]:
        """Equal for blocks that differ in the values of their variables alone."""
        adapters = [x.adapter.structure for x in self.linears if x.adapter is not None]
        shapes = [(v.name, v.shape, v.trainable) for v in self.variables]
        return (*shapes, *adapters)

    @property
    def linears(self) -> list[Linear]:
        """The block's matrix products, in the order of their weights."""
        attention, mlp = self.attention, self.mlp
        return [attention.qkv, attention.output_projection, mlp.up, mlp.down]

    def refresh_tracking(self) -> None:
        """Drop references to the variables that the layers of this block have released."""
        for layer in (self.attention, self.mlp, self):
            backend.refresh_tracking(layer)

    def call(
        self, x: Tensor, key: Tensor | None = None, segments: Segments | None = None
    ) -> Tensor:
        """x (B, T, D); `key` (2,) while training with dropout or `remat`."""
        forward: Callable[..., Tensor] = self.compiled_transform or self.transform
        if self.remat and key is not None:
            forward = backend.remat(forward)
        keys = self._layer_keys(key)
        if segments is None:
            return forward(x, *keys)
        return forward(x, *keys, *[None] * (4 - len(keys)), *segments)

    def _layer_keys(self, key: Tensor | None) -> list[Tensor]:
        """The key of each dropout, in the order of `transform`; none where nothing is dropped."""
        if key is None or not (self.config.dropout or self.adapter_drop.rate):
            return []
        drops = [self.attention.drop, self.attention_drop, self.mlp_drop]
        drops += [self.adapter_drop] if self.adapter_drop.rate else []
        return [drop.layer_key(key) for drop in drops]

    def transform(
        self,
        x: Tensor,
        weights_key: Tensor = None,
        heads_key: Tensor = None,
        mlp_key: Tensor = None,
        adapter_key: Tensor = None,
        positions: Tensor = None,
        segment_ids: Tensor = None,
    ) -> Tensor:
        """`call` as a function of tensors alone: with the key (2,) of each dropout."""
        normed = self.attention_norm(x)
        heads = self.attention(normed, weights_key, adapter_key, positions, segment_ids)
        x = x + self.attention_drop(heads, heads_key)
        return x + self.mlp_drop(self.mlp(self.mlp_norm(x), adapter_key), mlp_key)

    def call_with_cache(
        self, x: Tensor, update: CacheUpdate, layer: LayerCache
    ) -> tuple[Tensor, LayerCache]:
        """Like `call`, with one layer's cache; see `CausalSelfAttention.call_with_cache`."""
        normed = self.attention_norm(x)
        heads, layer = self.attention.call_with_cache(normed, update, layer)
        x = x + heads
        return x + self.mlp(self.mlp_norm(x), None, update.adapter_ids), layer

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "config": self.config.model_dump(),
            "initializer": keras.initializers.serialize(self.initializer),
            "remat": self.remat,
        }


def compile_blocks(blocks: list[Block], compiled: bool) -> None:
    """Compile blocks, once for all of one structure (adapters may make them differ), or undo it."""
    groups: dict[Any, list[Block]] = {}
    for block in blocks:
        block.compiled_transform = None
        groups.setdefault(block.structure, []).append(block)
    for alike in groups.values() if compiled else ():
        functions = [block.transform for block in alike]
        regions = backend.compile_regions(functions, [block.variables for block in alike])
        for block, region in zip(alike, regions, strict=True):
            block.compiled_transform = region


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
        intermediate_dim: int,
        activation: str = "gelu_tanh",
        use_bias: bool = True,
        kernel_initializer: Any = None,
        output_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.intermediate_dim = intermediate_dim
        self.activation = activation
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer) or Normal()
        self.output_initializer = keras.initializers.get(output_initializer) or Normal()
        self.up = Linear("up", self.kernel_initializer)
        self.down = Linear("down", self.output_initializer)

    def build(self, input_shape: Any) -> None:
        width = input_shape[-1]
        # SwiGLU's gate and value are one product: (D, 2F), the gate first.
        hidden = self.intermediate_dim * (2 if self.activation == "swiglu" else 1)
        self.up.build(self, (width, hidden))
        self.down.build(self, (self.intermediate_dim, width))
        if self.use_bias:
            self.up.add_bias(self, hidden)
            self.down.add_bias(self, width)

    def call(
        self, x: Tensor, adapter_key: Tensor | None = None, adapter_ids: Tensor | None = None
    ) -> Tensor:
        """x (B, T, D) to (B, T, D); the key (2,) and ids (B,) of adapters are as in `Linear`."""
        hidden = self.up(x, adapter_key, adapter_ids)  # (B, T, F), or (B, T, 2F) with a gate
        return self.down(self.activate(hidden), adapter_key, adapter_ids)  # (B, T, D)

    def activate(self, hidden: Tensor) -> Tensor:
        if self.activation == "swiglu":
            parts = ops.split(hidden, 2, axis=-1)
            gate, value = (backend.distribution.constrain(part, HIDDEN) for part in parts)
            return ops.silu(gate) * value
        if self.activation == "gelu_tanh":
            return backend.gelu_tanh(hidden)
        return ops.gelu(hidden, approximate=False)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "activation": self.activation,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
        }
