"""Models of zeros, built in milliseconds at any width, for tests of shape and device."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kgpt import NextTokenLoss
from kgpt.config import Config, TrainConfig
from kgpt.config.loading import presets
from kgpt.generation.decode import start_progress
from kgpt.generation.sequence import idle_sequences
from kgpt.model.gpt import GPT
from kgpt.model.initializers import Normal
from kgpt.training.optimizers import make_optimizer
from tests.tiny import ARCHITECTURES, tiny_config

BATCH, CACHE_LEN = 2, 32
HEAD_DIMS = (32, 36, 64, 100, 128, 160, 256)  # of which 36 and 100 are no multiples of 8
PRECISIONS = ("float32", "bfloat16")
MODELS = {
    **{name: {} for name in ARCHITECTURES},
    "dropout": {"dropout": 0.1},
    "llama-dropout": {"dropout": 0.1, "architecture": "llama"},
    "window-dropout": {"dropout": 0.1, "architecture": "window"},
    **{f"head-dim-{width}": {"head_dim": width, "architecture": "llama"} for width in HEAD_DIMS},
}
PRESETS = sorted(presets(finetune=False))


class Zeros(Normal):
    """Zeros, for every weight."""

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        return ops.zeros(shape, dtype)

    def named(self, path: str, scale: float = 1.0) -> Normal:
        return self


def build(name: str, precision: str) -> GPT:
    """The one-layer model `name` of `MODELS`, compiled for training."""
    changes = {"num_layers": 1, "architecture": name if name in ARCHITECTURES else "gpt2"}
    config = tiny_config(**{**changes, **MODELS[name]})
    return _compiled(GPT, config, TrainConfig(precision=precision, optimizer="adamw"))


def build_preset(name: str) -> GPT:
    """A preset with all its widths but a small vocabulary, and one layer."""
    config = Config.load(name)
    shape = config.model.model_copy(update={"num_layers": 1, "vocab_size": 512})
    return _compiled(GPT, shape, config.train)


def _compiled(kind: Any, config: Any, train: TrainConfig) -> GPT:
    model = GPT(
        config,
        gradient_checkpointing=train.gradient_checkpointing,
        initializer=Zeros(),
        dtype=train.dtype_policy,
    )
    model.compile(optimizer=make_optimizer(train), loss=NextTokenLoss(train.label_smoothing))
    model.optimizer.build(model.trainable_variables)
    return model


def decoding(model: GPT, program: Any) -> tuple[Any, Any, Any]:
    """Parameters, progress and cache of sequences that `program` decodes, as tensors."""
    params, state = idle_sequences(BATCH, model.config.known_vocab_size)
    start = (params, start_progress(state, program))
    params, progress = keras.tree.map_structure(ops.convert_to_tensor, start)
    return params, progress, model.new_cache(BATCH, CACHE_LEN)
