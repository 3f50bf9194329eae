"""A model directory: what `transformers`, vLLM, llama.cpp's converter and kgpt all read.

    config.json              the shape
    model.safetensors        the weights
    tokenizer.json           the tokenizer, with tokenizer_config.json and its chat template
    generation_config.json   how to sample by default
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

import kgpt
from kgpt.config import ModelConfig, SamplingConfig
from kgpt.errors import CheckpointError
from kgpt.files import write_json
from kgpt.model.families import Stored, from_hugging_face, layout, to_hugging_face
from kgpt.model.gpt import GPT
from kgpt.text.chat import CHATML_TEMPLATE
from kgpt.text.tokenizer import END_OF_TEXT, TURN_END, Tokenizer


def path_below(variable) -> str:
    """A variable's path without the model's own name: "block_0/attention/qkv"."""
    return variable.path.partition("/")[2]


def save_model(
    model: GPT, folder: Path, tokenizer: Tokenizer | None = None, weights=None, sampling=None
) -> None:
    """Write `model` into the existing `folder`.

    Args:
        weights: arrays to store in place of the model's variables, by path; for averaged weights.
        sampling: the `SamplingConfig` written as the default.
    """
    config = model.config
    values = to_hugging_face(config)
    values["transformers_version"] = "4.46.0"
    values.setdefault("kgpt", {})["version"] = kgpt.__version__
    if tokenizer is not None:
        values["bos_token_id"] = values["eos_token_id"] = tokenizer.end_of_text
        tokenizer.save(folder)
        write_json(folder / "tokenizer_config.json", _tokenizer_config(tokenizer, config))
        write_json(folder / "generation_config.json", _generation_config(tokenizer, sampling))
    write_json(folder / "config.json", values)
    ours = weights or {path_below(v): v for v in model.trainable_variables}
    tensors: dict[str, np.ndarray] = {}
    for stored in layout(config):
        tensors |= _to_tensors(stored, ours)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load_config(folder: Path) -> ModelConfig:
    """The `ModelConfig` of a model directory."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return from_hugging_face(values)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no config.json, so it is no model directory.") from None
    except (ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is damaged: {error}.") from None


def load_model(folder: Path, seed: int = 0, **options: Any) -> GPT:
    """The model of a model directory; `options` go to `GPT`."""
    model = GPT(load_config(folder), seed=seed, **options)
    load_weights(model, folder)
    return model


def load_weights(model: GPT, folder: Path) -> None:
    """Fill `model`, which must have the shapes stored in `folder`, one tensor at a time."""
    variables = {path_below(v): v for v in model.trainable_variables}
    file = folder / "model.safetensors"
    try:
        with safe_open(file, framework="np") as tensors:
            known = set(tensors.keys())
            for stored in layout(model.config):
                if stored.zeros is None:
                    variable = variables[stored.path]
                    variable.assign(_from_tensors(stored, tensors, known, variable.shape, file))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing.") from None
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged: {error}.") from None


def load_sampling(folder: Path) -> SamplingConfig:
    """The sampling that generation_config.json asks for; kgpt's defaults where it is silent."""
    file = folder / "generation_config.json"
    if not file.is_file():
        return SamplingConfig()
    values = json.loads(file.read_text(encoding="utf-8"))
    known = {name: values[name] for name in SamplingConfig.model_fields if values.get(name)}
    if values.get("do_sample") is False:
        known["temperature"] = 0
    return SamplingConfig.parse(known, str(file))


def _to_tensors(stored: Stored, ours: dict[str, Any]) -> dict[str, np.ndarray]:
    if stored.zeros is not None:
        return {stored.names[0]: np.zeros(stored.zeros, dtype="float32")}
    value = ours[stored.path]
    value = np.asarray(value if isinstance(value, np.ndarray) else value.numpy(), dtype="float32")
    ends = list(np.cumsum(stored.widths)[:-1])
    parts = np.split(value, ends, axis=-1)
    oriented = (part.T if stored.transposed else part for part in parts)
    return {
        name: np.ascontiguousarray(part) for name, part in zip(stored.names, oriented, strict=True)
    }


def _from_tensors(stored: Stored, tensors, known: set[str], shape, file: Path) -> np.ndarray:
    missing = [name for name in stored.names if name not in known]
    if missing:
        raise CheckpointError(f"{file} lacks the tensor {missing[0]}.")
    parts = [tensors.get_tensor(name) for name in stored.names]
    value = np.concatenate([part.T if stored.transposed else part for part in parts], axis=-1)
    if value.shape != tuple(shape):
        raise CheckpointError(
            f"{file} holds {stored.names[0]} with shape {list(value.shape)}, "
            f"but config.json says {list(shape)}."
        )
    return value


def _tokenizer_config(tokenizer: Tokenizer, config: ModelConfig) -> dict[str, Any]:
    values: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_length,
        "clean_up_tokenization_spaces": False,
    }
    if tokenizer.end_of_text is not None:
        values |= {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT}
    if tokenizer.id_of(TURN_END) is not None:
        values["chat_template"] = CHATML_TEMPLATE
    return values


def _generation_config(tokenizer: Tokenizer, sampling: SamplingConfig | None) -> dict[str, Any]:
    ends = [tokenizer.end_of_text, tokenizer.id_of(TURN_END)]
    values: dict[str, Any] = {"eos_token_id": [end for end in ends if end is not None]}
    if sampling is None:
        return values
    if sampling.temperature == 0:
        return values | {"do_sample": False}
    return values | {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "repetition_penalty": sampling.repetition_penalty,
    }
