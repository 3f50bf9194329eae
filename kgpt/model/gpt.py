"""GPT: token and position embeddings, a stack of blocks, a final norm, and a head.

What is worth knowing:
- GPT-2 and Llama are the two ends of one `ModelConfig`; every mixture between them works.
- It is a `keras.Model`: `compile`, `fit`, `evaluate`, `.keras` files, on every backend.
- A loss that can work from hidden states (`kgpt.NextTokenLoss`) is given them, so that training
  never stores the (B, T, V) logits. Any other Keras loss gets the logits.
"""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import Any

import keras
from keras import ops

from kgpt import backend
from kgpt.backend import keras_internals
from kgpt.config import ModelConfig
from kgpt.errors import UsageError
from kgpt.model.block import Block
from kgpt.model.dropout import Dropout, DropoutKey
from kgpt.model.initializers import Normal
from kgpt.model.kv_cache import init_kv_cache, plan_cache_update
from kgpt.model.linear import Embedding, Unembedding
from kgpt.model.loss_metric import TokenLoss
from kgpt.model.norms import make_norm
from kgpt.model.positions import sinusoids


@keras.saving.register_keras_serializable("kgpt")
class GPT(keras.Model):
    """A decoder-only transformer.

    Args:
        config: a `ModelConfig`, or its dictionary; `vocab_size` must be known.
        seed: of the initial weights and of dropout.
        gradient_checkpointing: recompute each block's activations in the backward pass.
        initializer: gives each weight its first value in place of noise; see `Normal`.
        weight_format: None, or for inference only "transposed" or "int8"; see `model/linear.py`.
            Such a model can neither be trained nor saved.

    Example:

    >>> model = GPT(ModelConfig(vocab_size=65, num_layers=1, num_heads=2, hidden_dim=8))
    >>> tuple(model(keras.ops.zeros((2, 5), dtype="int32")).shape)
    (2, 5, 65)
    """

    def __init__(
        self,
        config,
        seed=0,
        gradient_checkpointing=False,
        initializer=None,
        weight_format=None,
        name="gpt",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.config = config = ModelConfig.model_validate(config)
        if config.vocab_size is None:
            raise UsageError("model.vocab_size is not known; give it, or give a data set.")
        self.seed = seed
        self.gradient_checkpointing = gradient_checkpointing
        self._gives_hidden_states = False
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
        tied = self.token_embedding if config.tie_embeddings else None
        self.head = Unembedding("head", self.initializer.named("head"), tied)
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

    def build(self, input_shape):
        if self.built:
            return
        config = self.config
        table = (config.known_vocab_size, config.hidden_dim)
        self.token_embedding.build(self, table)
        if config.position == "learned":
            self.position_embedding.build(self, (config.max_length, config.hidden_dim))
        elif config.position == "sinusoidal":
            self.sinusoids = sinusoids(config.max_length, config.hidden_dim)
        self.head.build(self, table)
        stream = (None, None, config.hidden_dim)
        self.dropout_key.build()
        self.embedding_drop.build(stream)
        for block in self.blocks:
            block.build(stream)
        self.final_norm.build(stream)
        self.built = True

    def call(self, token_ids, training=False):
        """Logits of the next token at each position: (B, T) integers to (B, T, V)."""
        hidden = self.hidden_states(token_ids, training)
        return hidden if self._gives_hidden_states else self.unembed(hidden)

    def hidden_states(self, token_ids, training=False):
        """The residual stream after the final norm: (B, T) integers to (B, T, D)."""
        key = None
        if training and (self.config.dropout or self.gradient_checkpointing):
            key = self.dropout_key.draw()
        x = self.embed(token_ids, ops.arange(ops.shape(token_ids)[1]))
        x = self.embedding_drop(x, key)
        for block in self.blocks:
            x = block(x, key)
        return self.final_norm(x)

    def new_cache(self, batch_size, cache_len):
        """An empty KV cache for `batch_size` sequences of up to `cache_len` tokens."""
        return init_kv_cache(self.config, batch_size, cache_len, self.compute_dtype)

    def call_with_cache(self, token_ids, start, count, cache):
        """Hidden states of new tokens that continue the sequences in `cache`.

        Args:
            token_ids: (B, T), of which the first `count` of each sequence are real.
            start: (B,) position of each sequence's first new token. count: (B,), at most T.
            cache: from `new_cache` or an earlier call; do not use it again.

        Returns:
            (B, T, D) after the final norm, and the cache with the new tokens stored.
        """
        cache_len = ops.shape(cache[0][0])[2]
        update = plan_cache_update(
            start, count, ops.shape(token_ids)[1], cache_len, self.config.sliding_window
        )
        positions = update.positions
        if self.config.position != "rotary":  # padding may lie beyond the table
            positions = ops.minimum(positions, self.config.max_length - 1)
        x = self.embed(token_ids, positions)
        updated = []
        for block, (keys, values) in zip(self.blocks, cache, strict=True):
            x, keys, values = block.call_with_cache(x, update, keys, values)
            updated.append((keys, values))
        return self.final_norm(x), updated

    def decode_step(self, token, start, count, cache):
        """`call_with_cache` for one token per sequence, (B,): logits (B, V), and the cache."""
        hidden, cache = self.call_with_cache(token[:, None], start, count, cache)
        return self.unembed(hidden[:, 0]), cache

    def embed(self, token_ids, positions):
        """Token plus position embeddings: (B, T) integers at positions (T,) or (B, T)."""
        x = self.token_embedding(token_ids)  # (B, T, D)
        if self.config.position == "learned":
            x = x + self.position_embedding(positions)
        elif self.config.position == "sinusoidal":
            x = x + ops.take(ops.cast(self.sinusoids, x.dtype), positions, axis=0)
        return x

    def unembed(self, hidden):
        """Hidden states (..., D) to float32 logits (..., V)."""
        return ops.cast(self.head(hidden), "float32")

    @property
    def linears(self):
        """The matrix products of the blocks."""
        return [linear for block in self.blocks for linear in block.linears]

    @property
    def kernels(self):
        """The float kernels (in, out) of the blocks."""
        return [linear.variable for linear in self.linears if linear.variable is not None]

    def convert_weights(self, weight_format):
        """Store the weights as "transposed" or "int8"; before building, as they are created."""
        if weight_format == "int8":
            self.token_embedding.convert(weight_format)
        self.head.convert(weight_format)
        for block in self.blocks:
            for linear in block.linears:
                linear.convert(weight_format)
            if self.built:
                for layer in (block.attention, block.mlp, block):
                    backend.refresh_tracking(layer)
        if self.built:
            backend.refresh_tracking(self)

    # -- use: the implementations are above this layer, so they are found when called -------------

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> GPT:
        """The model of a directory, run or hub id; see `kgpt.checkpoints.pretrained`."""
        return importlib.import_module("kgpt.checkpoints.pretrained").from_pretrained(
            source, **options
        )

    def save_pretrained(self, folder: str | Path, tokenizer: Any = None, **options: Any) -> None:
        """Write a model directory; see `kgpt.checkpoints.pretrained.save_pretrained`."""
        pretrained = importlib.import_module("kgpt.checkpoints.pretrained")
        pretrained.save_pretrained(self, folder, tokenizer, **options)

    def generate(self, token_ids: Any, **options: Any) -> Any:
        """Continue token ids (T,) or (B, T); see `kgpt.generation.keras_api.generate`."""
        return importlib.import_module("kgpt.generation.keras_api").generate(
            self, token_ids, **options
        )

    # -- training: what Keras's own train and test steps call -----------------------------------

    @property
    def _loss_takes_hidden_states(self):
        loss = getattr(self, "loss", None)
        return hasattr(loss, "from_hidden_states") and not keras_internals.has_compiled_metrics(
            self
        )

    @property
    def metrics(self):
        """As everywhere in Keras; of the two that are called "loss", the one in use."""
        unused = (
            keras_internals.loss_tracker(self)
            if self._loss_takes_hidden_states
            else self.token_loss
        )
        return [metric for metric in super().metrics if metric is not unused]

    @contextlib.contextmanager
    def _inside_step(self):
        """While a step is traced, `call` gives hidden states if the loss can use them."""
        self._gives_hidden_states = self._loss_takes_hidden_states
        try:
            yield
        finally:
            self._gives_hidden_states = False

    def train_step(self, *args):
        with self._inside_step():
            return super().train_step(*args)

    def test_step(self, *args):
        with self._inside_step():
            return super().test_step(*args)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not self._gives_hidden_states:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        loss = self.loss.from_hidden_states(
            y_pred, self.head.weight.variable, y, sample_weight, training
        )
        tokens = ops.size(y) if sample_weight is None else ops.sum(sample_weight)
        self.token_loss.update_state(ops.stop_gradient(loss), tokens, training)
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if self._gives_hidden_states:
            return self.get_metrics_result()
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def get_metrics_result(self):
        if self._loss_takes_hidden_states:
            return {"loss": self.token_loss.result()}
        return super().get_metrics_result()

    def _resolve_auto_jit_compile(self):
        # Keras leaves XLA off on TensorFlow without a GPU, where it halves the time of a step.
        return backend.JIT_TRAINING and not self.run_eagerly

    def get_config(self):
        return {
            **super().get_config(),
            "config": self.config.model_dump(),
            "seed": self.seed,
            "gradient_checkpointing": self.gradient_checkpointing,
        }
