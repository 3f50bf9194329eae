"""How other software names the weights of a GPT: GPT-2's layout, Llama's, and kgpt's own.

A *family* is a `model_type` of Hugging Face's `config.json`. For each it is said here which
configurations it can express, how the configuration is written, and for every variable of a
`kgpt.GPT` under which names, and in which orientation, its parts are stored. The same table
serves reading and writing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kgpt.config import ModelConfig
from kgpt.errors import CheckpointError


@dataclass(frozen=True)
class Stored:
    """One variable of kgpt as it lies in a file.

    Attributes:
        path: the variable's path below the model, such as "block_0/attention/qkv".
        names: the tensors that hold it, in order, side by side along its last axis.
        widths: the last-axis width of each.
        transposed: each tensor is stored (out, in) instead of kgpt's (in, out).
        zeros: kgpt has no such variable; the file wants zeros of this shape.
    """

    path: str
    names: tuple[str, ...]
    widths: tuple[int, ...] = ()
    transposed: bool = False
    zeros: tuple[int, ...] | None = None


def family_of(config: ModelConfig) -> str:
    """The most widely understood `model_type` that expresses `config`."""
    plain = not config.qk_norm and config.sliding_window is None
    gpt2 = (
        plain
        and config.position == "learned"
        and config.norm == "layer"
        and config.activation in ("gelu", "gelu_tanh")
        and config.kv_heads == config.num_heads
        and config.head_width * config.num_heads == config.hidden_dim
        and config.has_qkv_bias == config.bias
    )
    llama = (
        plain
        and config.position == "rotary"
        and config.norm == "rms"
        and config.activation == "swiglu"
        and not config.bias
        and not config.has_qkv_bias
    )
    return "gpt2" if gpt2 else "llama" if llama else "kgpt"


def to_hugging_face(config: ModelConfig) -> dict[str, Any]:
    """The contents of config.json, but for token ids and provenance."""
    family = family_of(config)
    common = {
        "model_type": family,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.initializer_range,
        "torch_dtype": "float32",
    }
    if family == "gpt2":
        return common | {
            "architectures": ["GPT2LMHeadModel"],
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
    if family == "llama":
        return common | {
            "architectures": ["LlamaForCausalLM"],
            "max_position_embeddings": config.max_length,
            "hidden_size": config.hidden_dim,
            "intermediate_size": config.feed_forward_width,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.kv_heads,
            "head_dim": config.head_width,
            "hidden_act": "silu",
            "rms_norm_eps": config.norm_epsilon,
            "rope_theta": config.rope_theta,
            "attention_bias": False,
            "mlp_bias": False,
            "kgpt": {"dropout": config.dropout},
        }
    return common | {"kgpt": config.model_dump()}


def from_hugging_face(values: dict[str, Any]) -> ModelConfig:
    """The `ModelConfig` that a config.json describes; `CheckpointError` if kgpt cannot run it."""
    family = values.get("model_type")
    extra = values.get("kgpt") or {}
    if family == "kgpt":
        return ModelConfig.parse(extra)
    if family == "gpt2":
        activations = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
        activation = values.get("activation_function", "gelu_new")
        if activation not in activations:
            raise CheckpointError(f"kgpt has no activation {activation!r}, which this GPT-2 uses.")
        return ModelConfig.parse(
            {
                "vocab_size": values["vocab_size"],
                "max_length": values["n_positions"],
                "num_layers": values["n_layer"],
                "num_heads": values["n_head"],
                "hidden_dim": values["n_embd"],
                "intermediate_dim": values.get("n_inner"),
                "norm_epsilon": values.get("layer_norm_epsilon", 1e-5),
                "activation": activations[activation],
                "tie_embeddings": values.get("tie_word_embeddings", True),
                "dropout": values.get("resid_pdrop", 0.0),
                "initializer_range": values.get("initializer_range", 0.02),
                "bias": extra.get("bias", True),
            }
        )
    if family == "llama":
        return ModelConfig.parse(
            {
                "vocab_size": values["vocab_size"],
                "max_length": values["max_position_embeddings"],
                "num_layers": values["num_hidden_layers"],
                "num_heads": values["num_attention_heads"],
                "num_kv_heads": values.get("num_key_value_heads"),
                "hidden_dim": values["hidden_size"],
                "head_dim": values.get("head_dim"),
                "intermediate_dim": values["intermediate_size"],
                "position": "rotary",
                "rope_theta": values.get("rope_theta", 10000.0),
                "norm": "rms",
                "norm_epsilon": values.get("rms_norm_eps", 1e-6),
                "activation": "swiglu",
                "bias": False,
                "tie_embeddings": values.get("tie_word_embeddings", False),
                "dropout": extra.get("dropout", 0.0),
                "initializer_range": values.get("initializer_range", 0.02),
            }
        )
    raise CheckpointError(
        f"kgpt cannot run models of type {family!r}; it runs gpt2, llama and its own."
    )


def layout(config: ModelConfig) -> list[Stored]:
    """Every tensor of a model file, as `Stored` variables."""
    tables = {"gpt2": _gpt2_layout, "llama": _llama_layout, "kgpt": _own_layout}
    return list(tables[family_of(config)](config))


def _gpt2_layout(config: ModelConfig) -> Iterator[Stored]:
    yield Stored("token_embedding", ("transformer.wte.weight",))
    yield Stored("position_embedding", ("transformer.wpe.weight",))
    d, f = config.hidden_dim, config.feed_forward_width

    def bias(path: str, name: str, width: int) -> Stored:
        return Stored(path, (name,), zeros=None if config.bias else (width,))

    for i in range(config.num_layers):
        ours, theirs = f"block_{i}", f"transformer.h.{i}"
        yield Stored(f"{ours}/attention_norm/scale", (f"{theirs}.ln_1.weight",))
        yield bias(f"{ours}/attention_norm/bias", f"{theirs}.ln_1.bias", d)
        yield Stored(f"{ours}/attention/qkv", (f"{theirs}.attn.c_attn.weight",))
        yield bias(f"{ours}/attention/qkv_bias", f"{theirs}.attn.c_attn.bias", 3 * d)
        yield Stored(f"{ours}/attention/output", (f"{theirs}.attn.c_proj.weight",))
        yield bias(f"{ours}/attention/output_bias", f"{theirs}.attn.c_proj.bias", d)
        yield Stored(f"{ours}/mlp_norm/scale", (f"{theirs}.ln_2.weight",))
        yield bias(f"{ours}/mlp_norm/bias", f"{theirs}.ln_2.bias", d)
        yield Stored(f"{ours}/mlp/up", (f"{theirs}.mlp.c_fc.weight",))
        yield bias(f"{ours}/mlp/up_bias", f"{theirs}.mlp.c_fc.bias", f)
        yield Stored(f"{ours}/mlp/down", (f"{theirs}.mlp.c_proj.weight",))
        yield bias(f"{ours}/mlp/down_bias", f"{theirs}.mlp.c_proj.bias", d)
    yield Stored("final_norm/scale", ("transformer.ln_f.weight",))
    yield bias("final_norm/bias", "transformer.ln_f.bias", d)
    if not config.tie_embeddings:
        yield Stored("head", ("lm_head.weight",))


def _llama_layout(config: ModelConfig) -> Iterator[Stored]:
    yield Stored("token_embedding", ("model.embed_tokens.weight",))
    heads, kv = config.num_heads * config.head_width, config.kv_heads * config.head_width
    f, d = config.feed_forward_width, config.hidden_dim
    for i in range(config.num_layers):
        ours, theirs = f"block_{i}", f"model.layers.{i}"
        attention = f"{theirs}.self_attn"
        yield Stored(f"{ours}/attention_norm/scale", (f"{theirs}.input_layernorm.weight",))
        yield Stored(
            f"{ours}/attention/qkv",
            tuple(f"{attention}.{name}_proj.weight" for name in "qkv"),
            (heads, kv, kv),
            transposed=True,
        )
        yield Stored(
            f"{ours}/attention/output", (f"{attention}.o_proj.weight",), (d,), transposed=True
        )
        yield Stored(f"{ours}/mlp_norm/scale", (f"{theirs}.post_attention_layernorm.weight",))
        yield Stored(
            f"{ours}/mlp/up",
            (f"{theirs}.mlp.gate_proj.weight", f"{theirs}.mlp.up_proj.weight"),
            (f, f),
            transposed=True,
        )
        yield Stored(
            f"{ours}/mlp/down", (f"{theirs}.mlp.down_proj.weight",), (d,), transposed=True
        )
    yield Stored("final_norm/scale", ("model.norm.weight",))
    if not config.tie_embeddings:
        yield Stored("head", ("lm_head.weight",))


def _own_layout(config: ModelConfig) -> Iterator[Stored]:
    """kgpt's own names: the variables' paths."""
    attention = ["qkv", "output"] + ["qkv_bias"] * config.has_qkv_bias
    attention += ["output_bias"] * config.bias
    attention += ["query_norm/scale", "key_norm/scale"] * config.qk_norm
    norm = ["scale"] + ["bias"] * (config.bias and config.norm == "layer")
    mlp = ["up", "down"] + ["up_bias", "down_bias"] * config.bias
    paths = ["token_embedding"] + ["position_embedding"] * (config.position == "learned")
    for i in range(config.num_layers):
        parts = {"attention_norm": norm, "attention": attention, "mlp_norm": norm, "mlp": mlp}
        paths += [f"block_{i}/{part}/{name}" for part, names in parts.items() for name in names]
    paths += [f"final_norm/{name}" for name in norm] + ["head"] * (not config.tie_embeddings)
    yield from (Stored(path, (path.replace("/", "."),)) for path in paths)
