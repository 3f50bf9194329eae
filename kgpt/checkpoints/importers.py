"""Import models of other software as model directories.

A source is a model directory in any `model_type` that kgpt reads, a Hugging Face hub id, a preset
directory of KerasNLP's GPT-2, or a nanoGPT checkpoint. No code of a source is run.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.checkpoints.convert import copy_model
from kgpt.checkpoints.hub import download, is_hub_id
from kgpt.checkpoints.model_card import describe_model, write_card
from kgpt.checkpoints.pretrained import load_config, write_config
from kgpt.checkpoints.weight_map import gpt2_name
from kgpt.checkpoints.weights import write_weights
from kgpt.config import ModelConfig
from kgpt.config.parameters import parameter_shapes
from kgpt.errors import CheckpointError, KgptError, UsageError
from kgpt.files import describe_damage, is_lfs_pointer
from kgpt.runs import resolve_model
from kgpt.text.special_tokens import read_json_object
from kgpt.text.tokenizer import Tokenizer
from kgpt.text.tokenizer_files import read_gpt2


def import_from(
    source: str, out: Path, tokenizer: Tokenizer | None = None, dtype: str | None = None
) -> None:
    """Write the model that `source` names, with a model card, to the empty folder `out`.

    Args:
        tokenizer: replaces the source's own; required for a nanoGPT checkpoint, which has none.
        dtype: the storage dtype; the source's own if not given.

    Raises:
        UsageError: there is no such source, or it lacks a tokenizer.
        CheckpointError: the source cannot be read, or kgpt cannot run its model.
    """
    _import(source, out, tokenizer, dtype)
    card = replace(describe_model(out, load_config(out), source), name=Path(source).name)
    write_card(out, card, kept=out)


def _import(source: str, out: Path, tokenizer: Tokenizer | None, dtype: str | None) -> None:
    path = Path(source)
    with contextlib.suppress(KgptError):
        path = resolve_model(source)
    if path.is_file():
        return _import_nanogpt(path, out, tokenizer, dtype)
    if not path.is_dir():
        if not is_hub_id(source):
            raise UsageError(
                f"{source} is no file, no folder, and no id on the hub such as openai/gpt2."
            )
        path = download(source)
    if "registered_name" in read_json_object(path / "config.json"):
        return _import_keras_hub(path, out, tokenizer, dtype)
    tokenizer = tokenizer or Tokenizer.load(path)
    _check_vocabulary(tokenizer, load_config(path))
    copy_model(path, out, dtype, tokenizer)


def _check_vocabulary(tokenizer: Tokenizer, config: ModelConfig) -> None:
    """Raise `CheckpointError` if text can be encoded to ids that the model does not have.

    Special tokens beyond its vocabulary, such as a padding token added later, are harmless.
    """
    if any(
        token_id >= config.known_vocab_size and token_id not in tokenizer.special_by_id
        for token_id in tokenizer.backend_tokenizer.get_vocab().values()
    ):
        raise CheckpointError(
            f"The tokenizer has {tokenizer.vocab_size} tokens, but the model only "
            f"{config.vocab_size}; name the folder of the tokenizer that the model was trained "
            "with by --tokenizer."
        )


def _import_keras_hub(
    folder: Path, out: Path, tokenizer: Tokenizer | None, dtype: str | None
) -> None:
    preset = read_json_object(folder / "config.json")
    if preset.get("class_name") != "GPT2Backbone":
        raise CheckpointError(
            f"{folder} is a {preset.get('class_name')}; of KerasNLP's models kgpt reads "
            "GPT2Backbone and GPT2CausalLM."
        )
    assets = folder / "assets" / "tokenizer"
    if tokenizer is None and not (assets / "merges.txt").is_file():
        raise UsageError(f"{folder} has no tokenizer; name one with --tokenizer.")
    tokenizer = tokenizer or Tokenizer(read_gpt2(assets / "vocabulary.json", assets / "merges.txt"))
    names = {
        "vocabulary_size": "vocab_size", "num_layers": "num_layers", "num_heads": "num_heads",
        "hidden_dim": "hidden_dim", "intermediate_dim": "intermediate_dim",
        "max_sequence_length": "max_length",
    }  # fmt: skip
    try:
        backbone_config = {name: preset["config"][name] for name in names}
    except (KeyError, TypeError):
        raise CheckpointError(f"{folder / 'config.json'} does not describe a GPT-2.") from None
    config = ModelConfig.parse({names[name]: value for name, value in backbone_config.items()})
    _check_vocabulary(tokenizer, config)
    import keras_nlp

    backbone = keras_nlp.models.GPT2Backbone(**backbone_config)
    weights_file = _keras_weights_file(folder)
    try:
        backbone.load_weights(str(weights_file))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise CheckpointError(describe_damage(weights_file, reason)) from None
    weights = {weight.path: weight for weight in backbone.weights}

    def read(path: str) -> np.ndarray:
        parts = [weights[name].numpy() for name in _keras_hub_names(path)]
        return np.concatenate([part.reshape(*shapes[path][:-1], -1) for part in parts], axis=-1)

    shapes = dict(parameter_shapes(config))
    write_config(out, config, tokenizer, None, dtype or "float32")
    write_weights(out, config, read, dtype or "float32")


def _keras_weights_file(folder: Path) -> Path:
    """The weights file of a preset, or the index of several."""
    index = folder / "model.weights.json"
    return index if index.is_file() else folder / "model.weights.h5"


def _keras_hub_names(path: str) -> list[str]:
    """The weights of KerasNLP's GPT-2 that kgpt's variable `path` concatenates."""
    block, _, part = path.partition("/")
    if not block.startswith("block_"):
        return {
            "token_embedding": ["token_embedding/embeddings"],
            "position_embedding": ["position_embedding/embeddings"],
            "final_norm/scale": ["layer_norm/gamma"],
            "final_norm/bias": ["layer_norm/beta"],
        }[path]
    qkv = [f"self_attention/{name}" for name in ("query", "key", "value")]
    names = {
        "attention_norm/scale": ["self_attention_layer_norm/gamma"],
        "attention_norm/bias": ["self_attention_layer_norm/beta"],
        "attention/qkv": [f"{name}/kernel" for name in qkv],
        "attention/qkv_bias": [f"{name}/bias" for name in qkv],
        "attention/output": ["self_attention/attention_output/kernel"],
        "attention/output_bias": ["self_attention/attention_output/bias"],
        "mlp_norm/scale": ["feedforward_layer_norm/gamma"],
        "mlp_norm/bias": ["feedforward_layer_norm/beta"],
        "mlp/up": ["feedforward_intermediate_dense/kernel"],
        "mlp/up_bias": ["feedforward_intermediate_dense/bias"],
        "mlp/down": ["feedforward_output_dense/kernel"],
        "mlp/down_bias": ["feedforward_output_dense/bias"],
    }[part]
    return [f"transformer_layer_{block.removeprefix('block_')}/{name}" for name in names]


def _import_nanogpt(file: Path, out: Path, tokenizer: Tokenizer | None, dtype: str | None) -> None:
    if tokenizer is None:
        raise UsageError(
            "A nanoGPT checkpoint has no tokenizer; name one with --tokenizer "
            "(the folder of any GPT-2, if it was trained on GPT-2's tokens)."
        )
    checkpoint = _load_tensors(file)
    arguments = checkpoint.get("model_args")
    state = checkpoint.get("model")
    if not isinstance(arguments, dict) or not isinstance(state, dict):
        raise CheckpointError(f"{file} is no nanoGPT checkpoint: it lacks model_args or model.")
    names = {"n_layer": "num_layers", "n_head": "num_heads", "n_embd": "hidden_dim",
             "block_size": "max_length", "bias": "bias", "vocab_size": "vocab_size"}  # fmt: skip
    values = {names[name]: arguments[name] for name in names if name in arguments}
    config = ModelConfig.parse(values | {"activation": "gelu"}, str(file))
    _check_vocabulary(tokenizer, config)
    state = {name.removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
    for path, shape in parameter_shapes(config):
        name = gpt2_name(path)
        if name not in state:
            raise CheckpointError(f"{file} lacks the tensor {name}.")
        stored_shape = tuple(state[name].shape)
        if stored_shape != (shape[::-1] if _is_linear(path) else shape):
            raise CheckpointError(f"{name} in {file} has an unexpected shape {list(stored_shape)}.")

    def read(path: str) -> np.ndarray:
        value: np.ndarray = state[gpt2_name(path)].float().numpy()
        return value.T if _is_linear(path) else value

    write_config(out, config, tokenizer, None, dtype or "float32")
    write_weights(out, config, read, dtype or "float32")


def _load_tensors(file: Path) -> dict[str, Any]:
    """A torch checkpoint, unpickled as tensors and plain data only."""
    import pickle

    try:
        import torch
    except ImportError:
        raise UsageError(
            'Reading a torch checkpoint needs torch; `pip install "kgpt[torch]"`.'
        ) from None
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if is_lfs_pointer(file) or not file.stat().st_size:
            raise CheckpointError(describe_damage(file, "")) from None
        raise CheckpointError(
            f"{file} is refused: it contains more than tensors, and loading it could run code."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".") or "it ends too early"
        raise CheckpointError(describe_damage(file, reason)) from None
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{file} is not a nanoGPT checkpoint.")
    return loaded


def _is_linear(path: str) -> bool:
    """Is this the kernel of a linear layer, which torch stores as (out, in)?"""
    return path.startswith("block_") and path.split("/")[-1] in ("qkv", "output", "up", "down")
