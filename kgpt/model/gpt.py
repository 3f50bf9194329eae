"""GPT: token and position embeddings, a stack of blocks, a final norm, and a head.

To read the model from ids to logits: `GPT.call` here, `Block` and `MLP` in block.py, attention in
attention.py, norms and dropout in layers.py, matrix products in linear.py. `kgpt.backend` supplies
attention and norms in the fastest form of each backend.

- GPT-2 and Llama are the two ends of one `ModelConfig`; every mixture between them works.
- It is a `keras.Model`: `compile`, `fit`, `evaluate`, `.keras` files, on every backend.
  What its train step gives to the loss is in hidden_state_loss.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import keras
from keras import ops

from kgpt import backend
from kgpt.backend import keras_internals
from kgpt.backend.process_memory import trim_malloc
from kgpt.config import KVCacheDtype, ModelConfig
from kgpt.config.adapters import AdapterConfig, parse_adapter_config
from kgpt.config.distribute import STREAM
from kgpt.errors import UsageError
from kgpt.model.block import Block
from kgpt.model.hidden_state_loss import (
    HIDDEN_STATES_OF,
    HiddenStateLossModel,
    asks_for_hidden_states,
)
from kgpt.model.initializers import Normal
from kgpt.model.inputs import CheckedInputs, check_shape, segments_of, split_inputs
from kgpt.model.kv_cache import KVCache, init_kv_cache, plan_cache_update, split_adapter_ids
from kgpt.model.layers import Dropout, DropoutKey, make_norm, sinusoids
from kgpt.model.linear import Embedding, FormatName, Linear, Unembedding
from kgpt.model.loss_metric import TokenLoss

Tensor = Any


@keras.saving.register_keras_serializable("kgpt")
class GPT(CheckedInputs, HiddenStateLossModel):
    """A decoder-only transformer.

    Args:
        config: a `ModelConfig`, or its dictionary; `vocab_size` must be known.
        seed: of the initial weights and of dropout.
        gradient_checkpointing: recompute each block's activations in the backward pass.
        initializer: gives each weight its first value in place of noise; see `Normal`.
        weight_format: None, or for inference only "transposed", "int8" or "int4"; see
            `model/linear.py`. Such a model can neither be trained nor saved; a quantized one
            trains adapters.
        adapter_config: of adapters to add, as `kgpt.add_lora` does: a `LoraConfig`,
            `BottleneckConfig` or `PrefixConfig`, or its dictionary.

    Attributes:
        name_or_path: what the weights were loaded from, as it was named; None for new weights.
        max_adapters: how many adapters the rows of a batch choose from; see `model/multi_lora.py`.

    Example:

    >>> model = GPT(ModelConfig(vocab_size=65, num_layers=1, num_heads=2, hidden_dim=8))
    >>> tuple(model(keras.ops.zeros((2, 5), dtype="int32")).shape)
    (2, 5, 65)
    """

    built: bool
    max_adapters = 0

    def __init__(
        self,
        config: ModelConfig | dict[str, Any],
        seed: int = 0,
        gradient_checkpointing: bool = False,
        initializer: Normal | None = None,
        weight_format: FormatName | None = None,
        adapter_config: AdapterConfig | dict[str, Any] | None = None,
        name: str = "gpt",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.config = config = ModelConfig.model_validate(config)
        if config.vocab_size is None:
            raise UsageError("model.vocab_size is not known; give it, or give a data set.")
        self.seed = seed
        self.gradient_checkpointing = gradient_checkpointing
        self.name_or_path: str | None = None
        self.adapter_config: AdapterConfig | None = None
        self.token_loss = TokenLoss()
        policy = self.dtype_policy
        self.initializer = initializer or Normal(config.initializer_range, seed)
        self.token_embedding = Embedding(
            "token_embedding", self.initializer.named("token_embedding")
        )
        if config.position == "learned":
            self.position_embedding = Embedding(
                "position_embedding", self.initializer.named("position_embedding")
            )
        self.head = self.make_head()
        self.dropout_key = DropoutKey(seed, name="dropout_key")
        self.embedding_drop = Dropout(config.dropout, name="embedding_dropout", dtype=policy)
        self.blocks = [
            Block(
                config,
                self.initializer.named(f"block_{i}"),
                gradient_checkpointing,
                name=f"block_{i}",
                dtype=policy,
            )
            for i in range(config.num_layers)
        ]
        self.final_norm = make_norm(
            config.norm, config.norm_epsilon, config.bias, name="final_norm", dtype=policy
        )
        if weight_format:
            self.convert_weights(weight_format)
        self.build((None, None))
        if adapter_config is not None:
            self.add_adapter(parse_adapter_config(adapter_config))

    def make_head(self) -> Unembedding:
        """The projection from hidden states to `num_outputs`, not built yet."""
        tied = self.token_embedding if self.config.tie_embeddings else None
        return Unembedding("head", self.initializer.named("head"), tied)

    @property
    def num_virtual_tokens(self) -> int:
        """Tokens of the prefix before every text; 0 without one."""
        prefix = self.blocks[0].attention.prefix
        return 0 if prefix is None else len(prefix)

    @property
    def max_length(self) -> int:
        """The longest text, in tokens: the context, without the positions of a prefix."""
        return self.config.max_length - self.num_virtual_tokens

    @property
    def num_outputs(self) -> int:
        """Rows of the head: the size of the vocabulary."""
        return self.config.known_vocab_size

    def build(self, input_shape: Any) -> None:
        if self.built:
            return
        config = self.config
        table = (config.known_vocab_size, config.hidden_dim)
        self.token_embedding.build(self, table)
        if config.position == "learned":
            self.position_embedding.build(self, (config.max_length, config.hidden_dim))
        elif config.position == "sinusoidal":
            self.sinusoids = sinusoids(config.max_length, config.hidden_dim)
        self.head.build(self, (self.num_outputs, config.hidden_dim))
        stream = (None, None, config.hidden_dim)
        self.dropout_key.build()
        self.embedding_drop.build(stream)
        for block in self.blocks:
            block.build(stream)
        self.final_norm.build(stream)
        self.built = True

    def call(self, inputs: Tensor | dict[str, Any], training: bool = False) -> Tensor:
        """Logits of the next token at each position: (B, T) integers to (B, T, V).

        {"token_ids": ..., "segment_ids": ...}, each (B, T), are packed sequences: each segment
        is computed as if it were alone. See `kgpt/model/inputs.py`.

        {HIDDEN_STATES_OF: either of them} gives the hidden states (B, T, D) instead.
        """
        if asks_for_hidden_states(inputs):
            return self.hidden_states(inputs[HIDDEN_STATES_OF], training)
        return self.unembed(self.hidden_states(inputs, training))

    def hidden_states(self, inputs: Tensor | dict[str, Tensor], training: bool = False) -> Tensor:
        """The residual stream after the final norm: (B, T) integers to (B, T, D).

        Raises:
            ValueError: the ids are not integers, or T is above `max_length`.
        """
        token_ids, segment_ids = split_inputs(inputs)
        check_shape(token_ids, self.max_length)
        segments = None if segment_ids is None else segments_of(segment_ids, self.config.max_length)
        key = None
        adapter_dropout = getattr(self.adapter_config, "dropout", 0.0)
        if training and (self.config.dropout or self.gradient_checkpointing or adapter_dropout):
            key = self.dropout_key.draw()
        steps = ops.arange(ops.shape(token_ids)[1]) if segments is None else segments.positions
        steps = steps + self.num_virtual_tokens if self.num_virtual_tokens else steps
        x = backend.distribution.constrain(self.embed(token_ids, steps), STREAM)
        if key is not None:
            x = self.embedding_drop(x, self.embedding_drop.layer_key(key))
        for block in self.blocks:
            x = block(backend.distribution.constrain_stream(x), key, segments)
        x = self.final_norm(backend.distribution.constrain_stream(x))
        return backend.distribution.constrain(x, STREAM)

    # Set before the first cache is made; "auto" is the dtype of the computation.
    kv_cache_dtype: KVCacheDtype = "auto"

    @property
    def cache_dtype(self) -> str:
        """The dtype of keys and values in the caches that `new_cache` makes."""
        own = self.kv_cache_dtype
        return str(self.compute_dtype) if own == "auto" else own

    def new_cache(self, batch_size: int, cache_len: int, ids: Sequence[int] = ()) -> KVCache:
        """An empty KV cache for `batch_size` sequences of up to `cache_len` tokens.

        It begins with the virtual tokens of a prefix. `ids` are the adapters of the first
        sequences; the others have 0, the base model.
        """
        adapters = [*ids, *[0] * (batch_size - len(ids))] if self.max_adapters else None
        slots = cache_len + self.num_virtual_tokens
        cache = init_kv_cache(self.config, batch_size, slots, self.cache_dtype, adapters)
        if not self.num_virtual_tokens:
            return cache
        prefixes = [block.attention.prefix for block in self.blocks]
        filled = [p.fill(layer) for p, layer in zip(prefixes, cache, strict=False) if p]
        return [*filled, *cache[len(filled) :]]

    def call_with_cache(
        self, token_ids: Tensor, start: Tensor, count: Tensor, cache: KVCache
    ) -> tuple[Tensor, KVCache]:
        """Hidden states of new tokens that continue the sequences in `cache`.

        Args:
            token_ids: (B, T), of which the first `count` of each sequence are real.
            start: (B,) position of each sequence's first new token. count: (B,), at most T.
            cache: from `new_cache` or an earlier call; do not use it again.

        Returns:
            (B, T, D) after the final norm, and the cache with the new tokens stored.
        """
        layers, adapter_ids = split_adapter_ids(cache)
        cache_len = ops.shape(cache[0][0])[2]
        start = start + self.num_virtual_tokens if self.num_virtual_tokens else start
        update = plan_cache_update(
            start, count, ops.shape(token_ids)[1], cache_len, self.config.sliding_window
        )._replace(adapter_ids=adapter_ids)
        positions = update.positions
        if self.config.position != "rotary":  # padding may lie beyond the table
            positions = ops.minimum(positions, self.config.max_length - 1)
        with keras_internals.autocast(self):
            x = self.embed(token_ids, positions)
            updated = []
            for block, layer in zip(self.blocks, layers, strict=True):
                x, layer = block.call_with_cache(x, update, layer)
                updated.append(layer)
            return self.final_norm(x), [*updated, *cache[len(layers) :]]

    def decode_step(
        self, token: Tensor, start: Tensor, count: Tensor, cache: KVCache
    ) -> tuple[Tensor, KVCache]:
        """`call_with_cache` for one token per sequence, (B,): logits (B, V), and the cache."""
        hidden, cache = self.call_with_cache(token[:, None], start, count, cache)
        return self.unembed(hidden[:, 0]), cache

    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """Token plus position embeddings: (B, T) integers at positions (T,) or (B, T)."""
        x = self.token_embedding(token_ids)  # (B, T, D)
        if self.config.position == "learned":
            x = x + self.position_embedding(positions)
        elif self.config.position == "sinusoidal":
            x = x + ops.take(ops.cast(self.sinusoids, x.dtype), positions, axis=0)
        return x

    def unembed(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) to float32 logits (..., V)."""
        with keras_internals.autocast(self):
            return ops.cast(self.head(hidden), "float32")

    @property
    def linears(self) -> list[Linear]:
        """The matrix products of the blocks."""
        return [linear for block in self.blocks for linear in block.linears]

    @property
    def kernels(self) -> list[keras.Variable]:
        """The float kernels (in, out) of the blocks."""
        return [linear.variable for linear in self.linears if linear.variable is not None]

    def convert_weights(self, weight_format: FormatName) -> None:
        """Store the weights in this format from now on; before building, as they are created.

        Raises `UsageError` if the model has adapters.
        """
        if self.adapter_config is not None:
            raise UsageError("The model has adapters; merge them first, with kgpt.merge_lora.")
        if weight_format != "transposed":
            self.token_embedding.convert(weight_format)
        self._replace_weights(lambda linear: linear.convert(weight_format))

    def prepack_weights(self) -> None:
        """Put quantized weights into the layout of the backend's matmul library, if it has one.

        The model cannot train adapters then.
        """
        self._replace_weights(Linear.prepack)

    def _replace_weights(self, replace: Callable[[Linear], None]) -> None:
        """`replace` the weights of all products; old ones are freed a block at a time."""
        replace(self.head)
        for block in self.blocks:
            for linear in block.linears:
                replace(linear)
            if self.built:
                block.refresh_tracking()
                backend.refresh_tracking(self)
                trim_malloc()

    @property
    def compiled_functions(self) -> dict[type, Any]:
        """What `generate` and its like compiled for this model, by class; not tracked by Keras."""
        kept: dict[type, Any] = self.__dict__.setdefault("_compiled_functions", {})
        return kept

    def forget_compiled(self) -> None:
        """Undo `compile` and what `generate` compiled, after variables were added or removed."""
        self.compiled = False
        self.__dict__.pop("_compiled_functions", None)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "config": self.config.model_dump(),
            "seed": self.seed,
            "gradient_checkpointing": self.gradient_checkpointing,
            "adapter_config": self.adapter_config and self.adapter_config.model_dump(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        config = {"adapter_config": config.pop("lora", None), **config}  # as it was called before
        model: Self = super().from_config(config, custom_objects)
        return model
