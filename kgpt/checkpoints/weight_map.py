"""The tensor names and orientation of a GPT's weights in a model file.

For each `model_type` (see `hf_config.py`), the tensors that store each variable of a `kgpt.GPT`.
The same table is used to read and to write. No Keras here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kgpt.config import ModelConfig
from kgpt.config.parameters import parameter_shapes

# Buffers that older software stores with the weights, although the configuration implies them.
BUFFERS = re.compile(r".*\.(attn\.(bias|masked_bias)|rotary_emb\.inv_freq)|lm_head\.weight")
PREFIXES = ("transformer.", "model.")  # missing if a model was saved without its head


@dataclass(frozen=True)
class TensorMapping:
    """One variable of a `GPT` and the tensors that store it.

    Attributes:
        path: the variable's path below the model, such as "block_0/attention/qkv".
        shape: the variable's shape.
        names: the tensors, concatenated along the variable's last axis.
        widths: the size of each tensor along that axis.
        transposed: each tensor is stored (out, in) instead of kgpt's (in, out).
        always_zero: the `GPT` has no such variable; the file stores zeros.
    """

    path: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    widths: tuple[int, ...]
    transposed: bool = False
    always_zero: bool = False

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...], int]]:
        """Name and shape of each tensor in the file, and its start along the last axis."""
        start = 0
        for name, width in zip(self.names, self.widths, strict=True):
            shape = (*self.shape[:-1], width)
            yield name, shape[::-1] if self.transposed else shape, start
            start += width


def tensor_mappings(
    config: ModelConfig, model_type: str, num_labels: int | None = None
) -> Iterator[TensorMapping]:
    """Every variable of a model, as a file of `model_type` stores it.

    A classifier with `num_labels` has the head "score" in place of a language model's.
    """
    mappings = {"gpt2": _gpt2_mappings, "kgpt": _kgpt_mappings}.get(model_type, _llama_mappings)
    for mapping in mappings(config):
        if num_labels is None or mapping.path != "head":
            yield mapping
    if num_labels is not None:
        shape = (num_labels, config.hidden_dim)
        yield TensorMapping("score", shape, ("score.weight",), shape[-1:])


def _kgpt_mappings(config: ModelConfig) -> Iterator[TensorMapping]:
    """kgpt's own format: a tensor a variable, named by its path."""
    for path, shape in parameter_shapes(config):
        yield TensorMapping(path, shape, (path.replace("/", "."),), shape[-1:])


_GPT2_NAMES = {
    "token_embedding": "transformer.wte.weight",
    "position_embedding": "transformer.wpe.weight",
    "head": "lm_head.weight",
    "final_norm/scale": "transformer.ln_f.weight",
    "final_norm/bias": "transformer.ln_f.bias",
    "attention_norm/scale": "ln_1.weight",
    "attention_norm/bias": "ln_1.bias",
    "attention/qkv": "attn.c_attn.weight",
    "attention/qkv_bias": "attn.c_attn.bias",
    "attention/output": "attn.c_proj.weight",
    "attention/output_bias": "attn.c_proj.bias",
    "mlp_norm/scale": "ln_2.weight",
    "mlp_norm/bias": "ln_2.bias",
    "mlp/up": "mlp.c_fc.weight",
    "mlp/up_bias": "mlp.c_fc.bias",
    "mlp/down": "mlp.c_proj.weight",
    "mlp/down_bias": "mlp.c_proj.bias",
}


def gpt2_name(path: str) -> str:
    """The name of the variable `path` in a GPT-2 file."""
    block, _, part = path.partition("/")
    if block.startswith("block_"):
        return f"transformer.h.{block.removeprefix('block_')}.{_GPT2_NAMES[part]}"
    return _GPT2_NAMES[path]


def _gpt2_mappings(config: ModelConfig) -> Iterator[TensorMapping]:
    """GPT-2 stores matrices (in, out), as kgpt does, and always has biases."""
    for path, shape in parameter_shapes(config.model_copy(update={"bias": True})):
        always_zero = not config.bias and path.endswith("bias")
        names = (gpt2_name(path),)
        yield TensorMapping(path, shape, names, shape[-1:], always_zero=always_zero)


_LLAMA_NAMES = {
    "token_embedding": ("model.embed_tokens.weight",),
    "head": ("lm_head.weight",),
    "final_norm/scale": ("model.norm.weight",),
    "attention_norm/scale": ("input_layernorm.weight",),
    "attention/qkv": tuple(f"self_attn.{name}_proj.weight" for name in "qkv"),
    "attention/qkv_bias": tuple(f"self_attn.{name}_proj.bias" for name in "qkv"),
    "attention/output": ("self_attn.o_proj.weight",),
    "attention/output_bias": ("self_attn.o_proj.bias",),
    "attention/query_norm/scale": ("self_attn.q_norm.weight",),
    "attention/key_norm/scale": ("self_attn.k_norm.weight",),
    "mlp_norm/scale": ("post_attention_layernorm.weight",),
    "mlp/up": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "mlp/up_bias": ("mlp.gate_proj.bias", "mlp.up_proj.bias"),
    "mlp/down": ("mlp.down_proj.weight",),
    "mlp/down_bias": ("mlp.down_proj.bias",),
}
_TRANSPOSED = ("attention/qkv", "attention/output", "mlp/up", "mlp/down")


def _llama_mappings(config: ModelConfig) -> Iterator[TensorMapping]:
    """Llama and its relatives store matrices (out, in), with q, k, v and gate, up unfused."""
    heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    f = config.intermediate_dim
    for path, shape in parameter_shapes(config):
        block, _, part = path.partition("/")
        in_block = block.startswith("block_")
        names = _LLAMA_NAMES[part if in_block else path]
        if in_block:
            names = tuple(f"model.layers.{block.removeprefix('block_')}.{name}" for name in names)
        widths = {3: (heads, kv, kv), 2: (f, f), 1: shape[-1:]}[len(names)]
        yield TensorMapping(path, shape, names, widths, transposed=part in _TRANSPOSED)
