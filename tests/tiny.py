"""Tiny models that all tests share: every architecture, milliseconds to build, random weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kgpt.config import ModelConfig, SamplingConfig
from kgpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from kgpt.model.gpt import GPT

# The vocabulary is that of `Tokenizer.of_bytes()`.
GPT2: dict[str, Any] = {
    "vocab_size": 259, "max_length": 32, "num_layers": 2, "num_heads": 4, "hidden_dim": 32,
}  # fmt: skip
LLAMA: dict[str, Any] = {
    **GPT2, "num_kv_heads": 2, "intermediate_dim": 48, "position": "rotary", "norm": "rms",
    "activation": "swiglu", "bias": False,
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "gpt2-no-bias": {**GPT2, "bias": False, "activation": "gelu"},
    "llama": LLAMA,
    "untied": {**LLAMA, "tie_embeddings": False, "norm_epsilon": 1e-6},
    "one-kv-head": {**LLAMA, "num_kv_heads": 1},
    "qk-norm": {**LLAMA, "qk_norm": True, "qkv_bias": True},
    "window": {**GPT2, "sliding_window": 5},
    "llama-window": {**LLAMA, "sliding_window": 3, "head_dim": 6},
    "sinusoidal": {**GPT2, "position": "sinusoidal", "norm": "rms"},
}


def tiny_config(architecture: str = "gpt2", **changes: Any) -> ModelConfig:
    """The configuration of one of `ARCHITECTURES`, with some options changed."""
    return ModelConfig(**{**ARCHITECTURES[architecture], **changes})


def tiny_gpt2_config(**changes: Any) -> ModelConfig:
    """GPT-2's architecture: learned positions, layer norm, GELU, biases."""
    return tiny_config("gpt2", **changes)


def tiny_llama_config(**changes: Any) -> ModelConfig:
    """Llama's architecture: rotary positions, RMS norm, SwiGLU, grouped KV heads, no biases."""
    return tiny_config("llama", **changes)


def tiny_model(
    architecture: str = "gpt2",
    seed: int = 1,
    noise: float = 0.0,
    dtype: str | None = None,
    **changes: Any,
) -> GPT:
    """A model of `tiny_config`.

    Args:
        seed: of the initial weights.
        noise: standard deviation of what is added to every weight, so that biases and norms are
            not 0 and 1.
        dtype: a Keras dtype policy, such as "mixed_bfloat16".
        changes: options of the configuration.
    """
    import numpy as np

    from kgpt.model.gpt import GPT

    model = GPT(tiny_config(architecture, **changes), seed=seed, dtype=dtype)
    if noise:
        rng = np.random.default_rng(7)
        for variable in model.trainable_variables:
            shift = rng.normal(0, noise, variable.shape).astype("float32")
            variable.assign(variable.numpy() + shift)
    return model


def write_tiny_model(
    folder: Path,
    architecture: str = "llama",
    tokenizer: Tokenizer | None = None,
    sampling: SamplingConfig | None = None,
    **options: Any,
) -> Path:
    """Write a model of `tiny_model` and its tokenizer (by default of bytes) to `folder`."""
    from kgpt.checkpoints.pretrained import save_model

    tokenizer = tokenizer or Tokenizer.of_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_model(architecture, vocab_size=tokenizer.vocab_size, **options)
    save_model(model, folder, tokenizer, sampling=sampling)
    return folder
