"""Folders of PEFT's prefix tuning. No Keras here.

- adapter_config.json: `peft_type` "PREFIX_TUNING", `num_virtual_tokens`, and the shape of the model
- adapter_model.safetensors: `prompt_embeddings` (P, L * 2 * K * H): of each virtual token the key
  and the value of each layer
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.checkpoints.adapter_keys import COMMON_KEYS, check_keys, common_values
from kgpt.checkpoints.peft_format import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
)
from kgpt.checkpoints.safetensors_io import open_file, write_arrays
from kgpt.config import ModelConfig, PrefixConfig
from kgpt.errors import CheckpointError
from kgpt.files import write_json
from kgpt.text.special_tokens import read_json_object

PROMPT_EMBEDDINGS = "prompt_embeddings"
PARTS = ("keys", "values")
# With `prefix_projection`, the embeddings that PEFT saves have been projected.
KEYS = COMMON_KEYS | {
    "num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads",
    "num_layers", "encoder_hidden_size", "prefix_projection", "init_weights",
}  # fmt: skip


class PrefixAdapter:
    """The prefix in `folder`, for a model of `config`.

    Raises:
        CheckpointError: it is damaged, does not fit the model, or is of an unsupported kind.
    """

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self.model, file = config, folder / ADAPTER_WEIGHTS
        check_keys(folder / ADAPTER_CONFIG, read_json_object(folder / ADAPTER_CONFIG), KEYS)
        entries = open_file(file)
        if set(entries) != {PROMPT_EMBEDDINGS}:
            raise CheckpointError(f"{file} should have the tensor {PROMPT_EMBEDDINGS} alone.")
        shape = entries[PROMPT_EMBEDDINGS].shape
        width = 2 * config.num_layers * config.num_kv_heads * config.head_dim
        if len(shape) != 2 or shape[1] != width or not shape[0]:
            raise CheckpointError(
                f"{PROMPT_EMBEDDINGS} in {file} has shape {list(shape)}, but the base model "
                f"requires {width} numbers for each virtual token."
            )
        self.embeddings = np.asarray(entries[PROMPT_EMBEDDINGS].read(), "float32")

    def config(self) -> PrefixConfig:
        """What the prefix was made with."""
        return PrefixConfig(num_virtual_tokens=len(self.embeddings))

    def variables(self) -> dict[str, np.ndarray]:
        """The keys and values (K, P, H) of each layer, by the paths of kgpt's variables."""
        parts = self.embeddings.reshape(-1, *_shape(self.model))  # (P, L, 2, K, H)
        return {
            _path(layer, part): parts[:, layer, index].transpose(1, 0, 2)
            for layer in range(self.model.num_layers)
            for index, part in enumerate(PARTS)
        }

    @property
    def description(self) -> dict[str, Any]:
        """What `kgpt info` shows."""
        return {"kind": "prefix", "virtual_tokens": len(self.embeddings)}


def _shape(config: ModelConfig) -> tuple[int, int, int, int]:
    return (config.num_layers, 2, config.num_kv_heads, config.head_dim)


def _path(layer: int, part: str) -> str:
    return f"block_{layer}/attention/prefix_{part}"


def write_prefix(
    folder: Path, config: ModelConfig, base: str, variables: Mapping[str, np.ndarray]
) -> None:
    """Write a prefix, given by the paths of kgpt's variables, to the existing `folder`.

    Args:
        config: of the base model.
        base: becomes `base_model_name_or_path`.
    """
    layers = [
        [variables[_path(layer, part)].transpose(1, 0, 2) for part in PARTS]
        for layer in range(config.num_layers)
    ]
    embeddings = np.moveaxis(np.array(layers, "float32"), 2, 0)  # (P, L, 2, K, H)
    values = common_values("PREFIX_TUNING", base) | {
        "num_virtual_tokens": len(embeddings),
        "token_dim": config.num_kv_heads * config.head_dim,
        "num_transformer_submodules": 1,
        "num_attention_heads": config.num_kv_heads,
        "num_layers": config.num_layers,
        "encoder_hidden_size": config.num_kv_heads * config.head_dim,
        "prefix_projection": False,
    }
    flat = np.ascontiguousarray(embeddings.reshape(len(embeddings), -1))
    write_arrays(folder / ADAPTER_WEIGHTS, {PROMPT_EMBEDDINGS: flat})
    write_json(folder / ADAPTER_CONFIG, values)
