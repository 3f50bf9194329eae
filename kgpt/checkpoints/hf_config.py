"""Translate between `ModelConfig` and Hugging Face's `config.json`.

For each `model_type`: the configurations it can express, how they are written and how they are
read. The weights are mapped in `weight_map.py`. No Keras here.
"""

from __future__ import annotations

import math
from typing import Any

from kgpt.config import ModelConfig, RopeScaling
from kgpt.errors import CheckpointError

ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
GELU = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}


def model_type_of(config: ModelConfig) -> str:
    """The most widely understood `model_type` that expresses `config`; "kgpt" if none does."""
    if config.position == "learned" and config.norm == "layer" and config.activation != "swiglu":
        same_biases = config.bias == config.qkv_bias == config.mlp_bias
        same_heads = config.num_kv_heads == config.num_heads
        same_width = config.head_dim * config.num_heads == config.hidden_dim
        no_extras = not config.qk_norm and config.sliding_window is None
        return "gpt2" if same_biases and same_heads and same_width and no_extras else "kgpt"
    if (config.position, config.norm, config.activation) != ("rotary", "rms", "swiglu"):
        return "kgpt"
    biases = (config.qkv_bias, config.bias, config.mlp_bias)
    windowed = config.sliding_window is not None
    if config.qk_norm:
        return "qwen3" if biases in ((False,) * 3, (True, True, False)) else "kgpt"
    if biases == (True, False, False):
        return "qwen2"
    if not windowed and biases[0] == biases[1]:
        return "llama"
    return "mistral" if not any(biases) else "kgpt"


def to_hugging_face(config: ModelConfig) -> dict[str, Any]:
    """The contents of config.json, except storage dtype, token ids and provenance."""
    model_type = model_type_of(config)
    if model_type == "kgpt":
        return {"model_type": "kgpt", "kgpt": config.model_dump()}
    common = {
        "model_type": model_type,
        "architectures": [ARCHITECTURES[model_type]],
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.initializer_range,
    }
    gpt2 = model_type == "gpt2"
    return common | (_write_gpt2(config) if gpt2 else _write_llama(config, model_type))


def from_hugging_face(values: dict[str, Any]) -> ModelConfig:
    """The `ModelConfig` that a config.json describes; `CheckpointError` if kgpt cannot run it."""
    model_type = values.get("model_type")
    extra = values.get("kgpt") or {}
    if model_type == "kgpt":
        fields = {key: extra[key] for key in extra if key not in ("version", "quantization")}
        return ModelConfig.parse(fields)
    if model_type == "gpt2":
        return _read_gpt2(values, extra)
    if model_type in ARCHITECTURES:
        return _read_llama(values, extra, model_type)
    raise CheckpointError(
        f"kgpt cannot run models of type {model_type!r}; "
        f"it runs {', '.join(ARCHITECTURES)} and its own."
    )


def _write_gpt2(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_positions": config.max_length,
        "n_ctx": config.max_length,
        "n_embd": config.hidden_dim,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.intermediate_dim,
        "activation_function": "gelu_new" if config.activation == "gelu_tanh" else "gelu",
        "layer_norm_epsilon": config.norm_epsilon,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "kgpt": {"bias": config.bias},
    }


def _read_gpt2(values: dict[str, Any], extra: dict[str, Any]) -> ModelConfig:
    activation = values.get("activation_function", "gelu_new")
    if activation not in GELU:
        raise CheckpointError(f"kgpt has no activation {activation!r}, which this GPT-2 uses.")
    supported = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
                 "add_cross_attention": False}  # fmt: skip
    _require(values, supported)
    return ModelConfig.parse(
        {
            "vocab_size": values["vocab_size"],
            "max_length": values["n_positions"],
            "num_layers": values["n_layer"],
            "num_heads": values["n_head"],
            "hidden_dim": values["n_embd"],
            "intermediate_dim": values.get("n_inner"),
            "norm_epsilon": values.get("layer_norm_epsilon", 1e-5),
            "activation": GELU[activation],
            "tie_embeddings": values.get("tie_word_embeddings", True),
            "dropout": values.get("resid_pdrop", 0.0),
            "initializer_range": values.get("initializer_range", 0.02),
            "bias": extra.get("bias", True),
        }
    )


def _write_llama(config: ModelConfig, model_type: str) -> dict[str, Any]:
    values = {
        "max_position_embeddings": config.max_length,
        "hidden_size": config.hidden_dim,
        "intermediate_size": config.intermediate_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_scaling": _write_rope(config.rope_scaling),
        "kgpt": {"dropout": config.dropout},
    }
    window = config.sliding_window
    if model_type == "llama":
        return values | {"attention_bias": config.bias, "mlp_bias": config.mlp_bias}
    if model_type == "mistral":
        return values | {"sliding_window": window}
    values |= {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": config.num_layers if window is None else 0,
    }
    return values | ({"attention_bias": config.bias} if model_type == "qwen3" else {})


def _read_llama(values: dict[str, Any], extra: dict[str, Any], model_type: str) -> ModelConfig:
    supported = {"hidden_act": "silu", "partial_rotary_factor": 1.0}
    _require(values, supported)
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    _require(rope, supported)
    bias = bool(values.get("attention_bias", False))
    return ModelConfig.parse(
        {
            "vocab_size": values["vocab_size"],
            "max_length": values["max_position_embeddings"],
            "num_layers": values["num_hidden_layers"],
            "num_heads": values["num_attention_heads"],
            "num_kv_heads": values.get("num_key_value_heads"),
            "hidden_dim": values["hidden_size"],
            "head_dim": values.get("head_dim") or (128 if model_type == "qwen3" else None),
            "intermediate_dim": values["intermediate_size"],
            "position": "rotary",
            "rope_theta": rope.get("rope_theta") or values.get("rope_theta", 10000.0),
            "rope_scaling": _read_rope(rope, values),
            "norm": "rms",
            "norm_epsilon": values.get("rms_norm_eps", 1e-6),
            "activation": "swiglu",
            "bias": bias and model_type in ("llama", "qwen3"),
            "qkv_bias": True if model_type == "qwen2" else None,
            "mlp_bias": model_type == "llama" and bool(values.get("mlp_bias", False)),
            "qk_norm": model_type == "qwen3",
            "sliding_window": _read_window(values, model_type),
            "tie_embeddings": values.get("tie_word_embeddings", False),
            "dropout": extra.get("dropout", 0.0),
            "initializer_range": values.get("initializer_range", 0.02),
        }
    )


def _require(values: dict[str, Any], supported: dict[str, Any]) -> None:
    """Raise `CheckpointError` if `values` sets a key to anything but its one supported value."""
    for key, value in supported.items():
        if values.get(key, value) not in (value, None):
            raise CheckpointError(f"kgpt cannot run a model with {key} {values[key]!r}.")


def _read_window(values: dict[str, Any], model_type: str) -> int | None:
    """The sliding window of all layers; a model with one in some layers only is refused."""
    window: int | None = values.get("sliding_window", 4096 if model_type == "mistral" else None)
    if model_type == "llama" or window is None or window >= values["max_position_embeddings"]:
        return None
    if model_type == "mistral":
        return window
    layers = values["num_hidden_layers"]
    full = min(values.get("max_window_layers", 28), layers)  # the first layers have no window
    if layer_types := values.get("layer_types"):
        full = layer_types.count("full_attention")
    if not values.get("use_sliding_window", False) or full == layers:
        return None
    if full > 0:
        raise CheckpointError(
            f"kgpt cannot run a model in which {full} of {layers} layers have no sliding window."
        )
    return window


def _write_rope(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    values: dict[str, Any] = {"rope_type": scaling.type, "factor": scaling.factor}
    if scaling.type in ("llama3", "yarn"):
        values["original_max_position_embeddings"] = scaling.original_max_length
    fields = {
        "llama3": ("low_freq_factor", "high_freq_factor"),
        "yarn": ("beta_fast", "beta_slow", "attention_factor", "truncate"),
    }
    for name in fields.get(scaling.type, ()):
        if getattr(scaling, name) is not None:
            values[name] = getattr(scaling, name)
    return values


def _read_rope(rope: dict[str, Any], values: dict[str, Any]) -> RopeScaling | None:
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type == "default":
        return None
    if rope_type not in ("linear", "dynamic", "llama3", "yarn"):
        raise CheckpointError(
            f"kgpt has no RoPE scaling {rope_type!r}; it has linear, dynamic, llama3 and yarn."
        )
    max_length = values["max_position_embeddings"]
    original = (
        values.get("original_max_position_embeddings")
        or rope.get("original_max_position_embeddings")
        or max_length
    )
    factor = rope.get("factor") or max_length / original
    names = ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "truncate")
    given = {name: rope[name] for name in names if rope.get(name) is not None}
    attention = rope.get("attention_factor")
    if attention is None and rope.get("mscale") and rope.get("mscale_all_dim"):
        attention = _mscale(factor, rope["mscale"]) / _mscale(factor, rope["mscale_all_dim"])
    return RopeScaling.parse(
        {
            "type": rope_type,
            "factor": factor,
            "original_max_length": original,
            "attention_factor": attention if rope_type == "yarn" else None,
            **given,
        },
        "rope_scaling",
    )


def _mscale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0
