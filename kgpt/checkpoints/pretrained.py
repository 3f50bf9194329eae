"""A model directory: what `transformers`, vLLM, llama.cpp's converter and kgpt all read.

- config.json: the shape
- model.safetensors: the weights, or several such files with an index
- tokenizer.json: the tokenizer, with tokenizer_config.json and its chat template
- generation_config.json: how to sample by default
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import kgpt
from kgpt.checkpoints.hf_config import from_hugging_face, to_hugging_face
from kgpt.checkpoints.weights import Weights, write_weights
from kgpt.config import ModelConfig, SamplingConfig
from kgpt.errors import CheckpointError, UsageError
from kgpt.files import write_json
from kgpt.text.special_tokens import read_json_object
from kgpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from kgpt.model.gpt import GPT

# What a training checkpoint adds to a model directory, and the names these files had at first.
TRAINER_STATE = "trainer_state.json"
OPTIMIZER_STATE = "optimizer.safetensors"
FORMER_NAMES = {TRAINER_STATE: "training.json", OPTIMIZER_STATE: "training.safetensors"}


def training_state_file(folder: Path, name: str) -> Path:
    """The file `name` of a checkpoint, which an older checkpoint keeps under its former name."""
    former = folder / FORMER_NAMES[name]
    return former if former.is_file() else folder / name


def path_below(variable) -> str:
    """A variable's path without the model's own name: "block_0/attention/qkv"."""
    return variable.path.partition("/")[2]


def save_model(
    model: GPT,
    folder: Path,
    tokenizer: Tokenizer | None = None,
    weights=None,
    sampling=None,
    dtype: str = "float32",
) -> None:
    """Write `model` into the existing `folder`.

    Args:
        weights: arrays to store in place of the model's variables, by path; for averaged weights.
        sampling: the `SamplingConfig` written as the default.
        dtype: the storage type: float32, bfloat16 or float16.
    """
    ours = weights or {path_below(v): v for v in model.trainable_variables}

    def read(path: str) -> np.ndarray:
        value = ours[path]
        return value if isinstance(value, np.ndarray) else np.asarray(value.numpy())

    write_config(folder, model.config, tokenizer, sampling, dtype)
    write_weights(folder, model.config, read, dtype)


def write_config(
    folder: Path,
    config: ModelConfig,
    tokenizer: Tokenizer | None = None,
    sampling: SamplingConfig | None = None,
    dtype: str = "float32",
    **values: Any,
) -> None:
    """Write everything of a model directory but its weights; `values` go into config.json."""
    values = to_hugging_face(config) | {"torch_dtype": dtype} | values
    values["transformers_version"] = "4.46.0"
    values.setdefault("kgpt", {})["version"] = kgpt.__version__
    if tokenizer is not None:
        values |= {
            f"{name}_id": tokenizer.token_to_id(text)
            for name, text in tokenizer.special_tokens.tokens.items()
        }
        tokenizer.save(folder)
        write_json(folder / "tokenizer_config.json", tokenizer.settings(config.max_length))
        write_json(folder / "generation_config.json", _generation_config(tokenizer, sampling))
    write_json(folder / "config.json", values)


def load_config(folder: Path) -> ModelConfig:
    """The `ModelConfig` of a model directory."""
    file = folder / "config.json"
    values = read_json_object(file)
    if not values:
        raise CheckpointError(f"{folder} has no config.json, so it is no model directory.")
    try:
        return from_hugging_face(values)
    except KeyError as error:
        raise CheckpointError(f"{file} does not say {error}.") from None
    except UsageError as error:
        raise CheckpointError(f"{file} describes no model: {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file} is damaged: {error}.") from None


def load_model(folder: Path, seed: int = 0, **options: Any) -> GPT:
    """The model of a model directory.

    Weights come straight from the file, one at a time, as each variable is made.

    Args:
        options: go to `GPT`; `dtype="bfloat16"` holds and computes everything in bfloat16.
    """
    from kgpt.model.gpt import GPT
    from kgpt.model.initializers import Stored

    config = load_config(folder)
    weights = Weights(folder, config)
    model = GPT(config, seed=seed, initializer=Stored(weights, config.initializer_range), **options)
    _assign(model, weights, (path for path, shape in weights.shapes.items() if len(shape) == 1))
    return model


def load_weights(model: GPT, folder: Path) -> None:
    """Fill `model`, which must have the shapes stored in `folder`, one tensor at a time."""
    weights = Weights(folder, model.config)
    _assign(model, weights, weights.shapes)


def _assign(model: GPT, weights: Weights, paths: Iterable[str]) -> None:
    variables = {path_below(v): v for v in model.trainable_variables}
    for path in paths:
        variables[path].assign(weights.read(path, variables[path].dtype))


def load_sampling(folder: Path) -> SamplingConfig:
    """The sampling that generation_config.json asks for; kgpt's defaults where it is silent."""
    file = folder / "generation_config.json"
    values = read_json_object(file)
    known = {name: values[name] for name in SHARED if values.get(name) is not None}
    if "max_new_tokens" in values:
        known["max_tokens"] = values["max_new_tokens"]
    if values.get("do_sample") is False:
        known["temperature"] = 0
    return SamplingConfig.parse(known, str(file))


# Settings that generation_config.json and kgpt call by the same name, with the same meaning.
SHARED = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")


def _generation_config(tokenizer: Tokenizer, sampling: SamplingConfig | None) -> dict[str, Any]:
    values: dict[str, Any] = {"eos_token_id": sorted(tokenizer.stop_ids)}
    if sampling is None:
        return values
    if sampling.temperature == 0:
        return values | {"do_sample": False}
    unset = {"min_p": 0.0, "typical_p": 1.0}  # others take these for granted where it is silent
    shared = {name: getattr(sampling, name) for name in SHARED}
    return (
        values
        | {"do_sample": True}
        | {name: value for name, value in shared.items() if unset.get(name) != value}
    )
