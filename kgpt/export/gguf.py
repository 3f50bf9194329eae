"""GGUF: a model for llama.cpp, without llama.cpp's converter.

The converter knows tokenizers by a list of fingerprints and refuses one that was trained at home;
written here, it works. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.checkpoints.hf_config import model_type_of
from kgpt.checkpoints.pretrained import load_config
from kgpt.checkpoints.weights import Weights
from kgpt.config import ModelConfig
from kgpt.errors import CheckpointError, UsageError
from kgpt.model.positions import rotary_frequencies
from kgpt.text.tokenizer import Tokenizer

NAMES = {
    "token_embedding": "token_embd.weight",
    "position_embedding": "position_embd.weight",
    "head": "output.weight",
    "final_norm": "output_norm",
    "attention_norm": "attn_norm",
    "mlp_norm": "ffn_norm",
    "attention/output": "attn_output.weight",
    "attention/output_bias": "attn_output.bias",
    "attention/query_norm": "attn_q_norm",
    "attention/key_norm": "attn_k_norm",
    "mlp/down": "ffn_down.weight",
    "mlp/down_bias": "ffn_down.bias",
}
KINDS = {"scale": "weight", "bias": "bias"}

# llama.cpp refuses a file without merges, which is what a tokenizer of bytes has. The byte 255 is
# in no text: UTF-8 does not use it.
NO_MERGE = "\u00ff \u00ff"


def export_gguf(folder: Path, out: Path, dtype: str | None = None) -> None:
    """Write model.gguf into the empty folder `out`, as float32 or with matrices in float16.

    Raises `CheckpointError` for a model or tokenizer that llama.cpp has no form of.
    """
    try:
        import gguf
    except ImportError:
        raise UsageError('The format gguf needs gguf; `pip install "kgpt[gguf]"`.') from None
    if dtype == "bfloat16":
        raise UsageError("kgpt writes GGUF files as float32 or float16; give one as --dtype.")
    config, tokenizer = load_config(folder), Tokenizer.load(folder)
    family = model_type_of(config)
    if family in ("kgpt", "mistral") or (
        config.rope_scaling and config.rope_scaling.type == "yarn"
    ):
        raise CheckpointError(f"kgpt has no GGUF form of the model in {folder}.")
    cutting = _cutting(tokenizer)
    writer = gguf.GGUFWriter(str(out / "model.gguf"), family)
    _describe(writer, config, family)
    _add_tokenizer(gguf, writer, tokenizer, cutting, config.known_vocab_size)
    narrow = dtype == "float16"
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if narrow else gguf.LlamaFileType.ALL_F32)
    weights = Weights(folder, config)
    for path in weights.shapes:
        for name, value in _tensors(path, weights.read(path), config, family):
            kind = "float16" if narrow and value.ndim > 1 else "float32"
            writer.add_tensor(name, np.ascontiguousarray(value, kind))
    if config.rope_scaling is not None and config.rope_scaling.type == "llama3":
        plain = rotary_frequencies(config.head_dim, config.rope_theta).frequencies
        scaled = rotary_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
        writer.add_tensor("rope_freqs.weight", plain / scaled.frequencies)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: Any, config: ModelConfig, family: str) -> None:
    writer.add_name("kgpt")
    writer.add_context_length(config.max_length)
    writer.add_embedding_length(config.hidden_dim)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_dim)
    writer.add_head_count(config.num_heads)
    if family == "gpt2":
        return writer.add_layer_norm_eps(config.norm_epsilon)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_vocab_size(config.known_vocab_size)
    if config.rope_scaling is not None and config.rope_scaling.type == "linear":
        writer.add_rope_scaling_type(_linear())
        writer.add_rope_scaling_factor(config.rope_scaling.factor)


def _linear() -> Any:
    import gguf

    return gguf.RopeScalingType.LINEAR


def _tensors(path: str, value: np.ndarray, config: ModelConfig, family: str):
    """The tensors that the variable called `path` becomes: matrices (out, in), products apart."""
    block, _, part = path.partition("/")
    inside = block.startswith("block_")
    prefix = f"blk.{block.removeprefix('block_')}." if inside else ""
    part = part if inside else path
    kind = "bias" if part.endswith("_bias") else "weight"
    value = value.T if inside and value.ndim == 2 else value
    owner, _, last = part.rpartition("/")
    if last in KINDS:
        yield f"{prefix}{NAMES[owner]}.{KINDS[last]}", value
    elif part.startswith("attention/qkv") and family == "gpt2":
        yield f"{prefix}attn_qkv.{kind}", value
    elif part.startswith("attention/qkv"):
        n, k, h = config.num_heads, config.num_kv_heads, config.head_dim
        query, key, rest = np.split(value, [n * h, (n + k) * h])
        if family == "llama":  # llama.cpp turns neighbours in a head where others turn halves
            query, key = _interleaved(query, n), _interleaved(key, k)
        for name, tensor in zip("qkv", (query, key, rest), strict=True):
            yield f"{prefix}attn_{name}.{kind}", tensor
    elif part.startswith("mlp/up") and config.activation == "swiglu":
        gate, up = np.split(value, 2)
        yield f"{prefix}ffn_gate.{kind}", gate
        yield f"{prefix}ffn_up.{kind}", up
    elif part.startswith("mlp/up"):
        yield f"{prefix}ffn_up.{kind}", value
    else:
        yield prefix + NAMES[part], value


def _interleaved(value: np.ndarray, heads: int) -> np.ndarray:
    """Rows (heads * H, ...) with the two halves of each head interleaved."""
    split = value.reshape(heads, 2, -1, *value.shape[1:])
    return split.swapaxes(1, 2).reshape(value.shape)


def _cutting(tokenizer: Tokenizer) -> str:
    """llama.cpp's name for how the tokenizer cuts words."""
    values = json.loads(tokenizer.to_json())
    steps = values.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    kinds = [step.get("type") for step in steps]
    patterns = "".join(str(step.get("pattern")) for step in steps)
    if kinds == ["ByteLevel"] and steps[0].get("use_regex") and values.get("normalizer") is None:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"]:
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and r"\p{N}{1,3}" in patterns:
        return "llama-bpe"
    if kinds == ["Split", "ByteLevel"] and r"|\p{N}|" in patterns.replace("\\\\", "\\"):
        return "qwen2"
    raise CheckpointError(
        "kgpt writes GGUF files with the byte-level tokenizers of GPT-2, SmolLM, Llama 3 and Qwen2 "
        "only; this model's is another kind."
    )


def _add_tokenizer(
    gguf: Any, writer: Any, tokenizer: Tokenizer, cutting: str, vocab_size: int
) -> None:
    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    by_id = {token_id: token for token, token_id in vocabulary.items()}
    names = [by_id.get(i, f"[PAD{i}]") for i in range(vocab_size)]
    special, normal, unused = (
        gguf.TokenType.CONTROL, gguf.TokenType.NORMAL, gguf.TokenType.UNUSED,
    )  # fmt: skip
    types = [
        special if i in tokenizer.special_by_id else normal if i in by_id else unused
        for i in range(vocab_size)
    ]
    merges = json.loads(tokenizer.to_json())["model"]["merges"] or [NO_MERGE]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cutting)
    writer.add_token_list(names)
    writer.add_token_types(types)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    tokens = tokenizer.special_tokens.tokens
    for role, add in (
        ("bos_token", writer.add_bos_token_id),
        ("eos_token", writer.add_eos_token_id),
    ):
        if (token_id := tokenizer.token_to_id(tokens.get(role, ""))) is not None:
            add(token_id)
    writer.add_add_bos_token(bool(tokenizer.bos_ids))
    if tokenizer.special_tokens.chat_template is not None:
        writer.add_chat_template(tokenizer.special_tokens.chat_template)
