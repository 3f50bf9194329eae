"""The served model as Ollama's API describes models."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from kgpt import formatting
from kgpt.checkpoints.hf_config import model_type_of
from kgpt.checkpoints.model_info import weight_bytes
from kgpt.serving.state import ServerState

SIZED_AS = {"tensorfloat32": "float32", "float16": "bfloat16"}  # dtypes of the same size


def model_entry(state: ServerState, name: str, parent: str = "") -> dict[str, Any]:
    """An entry of `/api/tags` and `/api/ps`. The digest is one of the name and the shape.

    `parent` is the model of an adapter.
    """
    config = state.generator.config
    sizes, dtype = weight_bytes(config), state.generator.dtype
    known_as = name if parent else state.name
    digest = hashlib.sha256(f"{known_as} {config.model_dump_json()}".encode()).hexdigest()
    return {
        "name": name,
        "model": name,
        "modified_at": _modified(state),
        "size": sizes[SIZED_AS.get(dtype, dtype)],
        "digest": digest,
        "details": _details(state, parent),
    }


def details_of_model(state: ServerState, parent: str = "") -> dict[str, Any]:
    """The answer of `/api/show`; `parent` is the model of an adapter."""
    generator, config = state.generator, state.generator.config
    family = model_type_of(config)
    sampling = generator.default_sampling.model_dump().items()
    info = {
        "general.architecture": family,
        "general.parameter_count": config.num_parameters(),
        f"{family}.context_length": generator.max_context,
        f"{family}.embedding_length": config.hidden_dim,
        f"{family}.block_count": config.num_layers,
        f"{family}.attention.head_count": config.num_heads,
        f"{family}.attention.head_count_kv": config.num_kv_heads,
        f"{family}.vocab_size": config.vocab_size,
    }
    return {
        "modelfile": "",
        "parameters": "\n".join(f"{name} {value}" for name, value in sampling if value),
        "template": "",
        "details": _details(state, parent),
        "model_info": info,
        "capabilities": ["completion"],
        "modified_at": _modified(state),
    }


def _details(state: ServerState, parent: str) -> dict[str, Any]:
    config = state.generator.config
    family = model_type_of(config)
    return {
        "parent_model": parent,
        "format": "safetensors",
        "family": family,
        "families": [family],
        "parameter_size": formatting.count(config.num_parameters()),
        "quantization_level": state.generator.dtype,
    }


def _modified(state: ServerState) -> str:
    return datetime.fromtimestamp(state.created, UTC).isoformat()
