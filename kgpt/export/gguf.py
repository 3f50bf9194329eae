"""Export to GGUF, the format of llama.cpp, without llama.cpp's converter.

That converter recognises tokenizers by fingerprint and refuses any that it does not list, such as
one trained with kgpt. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.checkpoints.classifier_head import ClassifierHead
from kgpt.checkpoints.hf_config import model_type_of
from kgpt.checkpoints.pretrained import load_config, load_tokenizer
from kgpt.checkpoints.weights import Weights
from kgpt.config import ModelConfig
from kgpt.errors import CheckpointError, UsageError
from kgpt.model.attention import rotary_frequencies
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
# The ggml types of matrices and of the embedding with the head, by dtype. llama-quantize stores the
# latter as q6_K in a q4_0 file, which the package gguf cannot write.
MATRIX_TYPES = {
    "float32": ("F32", "F32"),
    "float16": ("F16", "F16"),
    "q8_0": ("Q8_0", "Q8_0"),
    "q4_0": ("Q4_0", "Q8_0"),
}
FILE_TYPES = {
    "float32": "ALL_F32",
    "float16": "MOSTLY_F16",
    "q8_0": "MOSTLY_Q8_0",
    "q4_0": "MOSTLY_Q4_0",
}
FLOAT_TABLE = "position_embd.weight"  # never quantized, as in llama.cpp

# llama.cpp refuses a file without merges, but a byte tokenizer has none. This merge is never
# applied: UTF-8 does not use the byte 255.
UNUSED_MERGE = "\u00ff \u00ff"


def export_gguf(folder: Path, out: Path, dtype: str | None = None) -> None:
    """Write model.gguf to the empty folder `out`; `dtype`, one of `MATRIX_TYPES`, of the matrices.

    Raises `CheckpointError` for a model or tokenizer that llama.cpp does not support.
    """
    gguf = import_gguf(dtype)
    ClassifierHead.refuse(folder, "which llama.cpp cannot run; give the format savedmodel or hf.")
    config, tokenizer = load_config(folder), load_tokenizer(folder)
    model_type = model_type_of(config)
    scaling = config.rope_scaling
    if model_type in ("kgpt", "mistral") or (scaling is not None and scaling.type == "yarn"):
        raise CheckpointError(
            f"The model in {folder} cannot be written as GGUF; the format onnx works."
        )
    pre_tokenizer = _pre_tokenizer_name(tokenizer)
    writer = gguf.GGUFWriter(str(out / "model.gguf"), model_type)
    _write_hparams(writer, config, model_type)
    _write_tokenizer(writer, tokenizer, pre_tokenizer, config.known_vocab_size)
    dtype = dtype or "float32"
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[dtype]])
    weights = Weights(folder, config)
    for path in weights.shapes:
        for name, value in gguf_tensors(path, weights.read(path), config, model_type):
            _write_tensor(writer, name, value, dtype)
    if scaling is not None and scaling.type == "llama3":
        unscaled = rotary_frequencies(config.head_dim, config.rope_theta).frequencies
        scaled = rotary_frequencies(config.head_dim, config.rope_theta, scaling).frequencies
        writer.add_tensor("rope_freqs.weight", unscaled / scaled)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def import_gguf(dtype: str | None, dtypes: Iterable[str] = MATRIX_TYPES) -> Any:
    """The package gguf; a `UsageError` if there is none, or `dtype` is not one of `dtypes`."""
    try:
        import gguf
    except ImportError:
        raise UsageError('The format gguf needs gguf; `pip install "kgpt[gguf]"`.') from None
    if dtype not in (None, *dtypes):
        raise UsageError(f"kgpt writes this GGUF file as {', '.join(dtypes)}, not {dtype}.")
    return gguf


def _write_tensor(writer: Any, name: str, value: np.ndarray, dtype: str) -> None:
    """Matrices as `dtype`, vectors as float32; a matrix that has no whole blocks as float16."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

    matrices, tables = MATRIX_TYPES[dtype]
    is_table = name in (NAMES["token_embedding"], NAMES["head"])
    kind = GGMLQuantizationType[tables if is_table else matrices]
    if value.ndim == 1 or (name == FLOAT_TABLE and kind.name.startswith("Q")):
        kind = GGMLQuantizationType.F32
    elif value.shape[-1] % GGML_QUANT_SIZES[kind][0]:
        kind = GGMLQuantizationType.F16
    stored = quants.quantize(np.ascontiguousarray(value, "float32"), kind)
    writer.add_tensor(name, stored, raw_dtype=kind)


def _write_hparams(writer: Any, config: ModelConfig, model_type: str) -> None:
    import gguf

    writer.add_name("kgpt")
    writer.add_context_length(config.max_length)
    writer.add_embedding_length(config.hidden_dim)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_dim)
    writer.add_head_count(config.num_heads)
    if model_type == "gpt2":
        writer.add_layer_norm_eps(config.norm_epsilon)
        return
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_vocab_size(config.known_vocab_size)
    if config.rope_scaling is not None and config.rope_scaling.type == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_scaling.factor)


def gguf_tensors(
    path: str, value: np.ndarray, config: ModelConfig, model_type: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and values that store the variable `path`: matrices (out, in), fused ones split."""
    block, _, part = path.partition("/")
    in_block = block.startswith("block_")
    prefix = f"blk.{block.removeprefix('block_')}." if in_block else ""
    part = part if in_block else path
    kind = "bias" if part.endswith("_bias") else "weight"
    value = value.T if in_block and value.ndim == 2 else value
    owner, _, last = part.rpartition("/")
    if last in KINDS:
        yield f"{prefix}{NAMES[owner]}.{KINDS[last]}", value
    elif part.startswith("attention/qkv") and model_type == "gpt2":
        yield f"{prefix}attn_qkv.{kind}", value
    elif part.startswith("attention/qkv"):
        n, k, h = config.num_heads, config.num_kv_heads, config.head_dim
        query, key, value = np.split(value, [n * h, (n + k) * h])
        if model_type == "llama":  # llama.cpp rotates adjacent pairs, kgpt the halves of a head
            query, key = _interleaved(query, n), _interleaved(key, k)
        for name, tensor in zip("qkv", (query, key, value), strict=True):
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
    split = value.reshape(heads, 2, -1, *value.shape[1:])  # (heads, 2, H / 2, ...)
    return split.swapaxes(1, 2).reshape(value.shape)


def _pre_tokenizer_name(tokenizer: Tokenizer) -> str:
    """llama.cpp's name of the tokenizer's pre-tokenizer."""
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
        "kgpt writes GGUF files with the byte-level pre-tokenizers of GPT-2, SmolLM, Llama 3 and "
        "Qwen2; this model's tokenizer has another one."
    )


def _write_tokenizer(
    writer: Any, tokenizer: Tokenizer, pre_tokenizer: str, vocab_size: int
) -> None:
    from gguf import TokenType

    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    by_id = {token_id: token for token, token_id in vocabulary.items()}
    names = [by_id.get(i, f"[PAD{i}]") for i in range(vocab_size)]
    types = [
        TokenType.CONTROL if i in tokenizer.special_by_id
        else TokenType.NORMAL if i in by_id
        else TokenType.UNUSED
        for i in range(vocab_size)
    ]  # fmt: skip
    merges = json.loads(tokenizer.to_json())["model"]["merges"] or [UNUSED_MERGE]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
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
