"""Load and save model directories, which `transformers`, vLLM and llama.cpp's converter also read.

- config.json: the architecture
- model.safetensors: the weights, or several such files with an index
- tokenizer.json: the tokenizer, with tokenizer_config.json and its chat template
- generation_config.json: the default sampling
- README.md: the model card
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kgpt
from kgpt.checkpoints.classifier_head import ClassifierHead
from kgpt.checkpoints.generation_config import GENERATION_CONFIG, generation_config
from kgpt.checkpoints.hf_config import from_hugging_face, to_hugging_face
from kgpt.checkpoints.hub import resolve_source as resolve_source
from kgpt.checkpoints.model_card import ModelCard, write_card
from kgpt.checkpoints.peft_format import base_folder, is_unmerged, tokenizer_folder
from kgpt.checkpoints.stored_adapter import read_adapter
from kgpt.checkpoints.weights import Weights, write_weights
from kgpt.config import ModelConfig, QuantizedDtype, SamplingConfig
from kgpt.errors import CheckpointError, UsageError
from kgpt.files import atomic_dir, describe_damage, os_errors_as_kgpt, write_json
from kgpt.text.special_tokens import read_json_object
from kgpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from kgpt.model.gpt import GPT

# What a model directory consists of; a folder with anything else is never replaced.
SUFFIXES = (".json", ".jinja", ".md", ".safetensors", ".txt")

# What a training checkpoint adds to a model directory, and the names these files had at first.
TRAINER_STATE = "trainer_state.json"
OPTIMIZER_STATE = "optimizer.safetensors"
UNMERGED = "unmerged.safetensors"  # adapters and head by path, of a classifier that has adapters
FORMER_NAMES = {TRAINER_STATE: "training.json", OPTIMIZER_STATE: "training.safetensors"}


def training_state_file(folder: Path, name: str) -> Path:
    """The file `name` of a checkpoint, which an older checkpoint keeps under its former name."""
    former = folder / FORMER_NAMES[name]
    return former if former.is_file() else folder / name


def is_optimizer_state(name: str) -> bool:
    """Is a checkpoint's file, or one of the parts of it, the state of the optimizer?

    >>> is_optimizer_state("optimizer-00001-of-00002.safetensors")
    True
    """
    stem = OPTIMIZER_STATE.partition(".")[0]
    return name == FORMER_NAMES[OPTIMIZER_STATE] or re.split("[-.]", name)[0] == stem


# -- the interface of `kgpt.GPT` -----------------------------------------------------------------


def from_pretrained(
    source: str | Path,
    *,
    dtype: str = "float32",
    device: str | None = None,
    weight_format: QuantizedDtype | None = None,
) -> GPT:
    """The model that `source` names, ready to be trained or run.

    Args:
        source: a model directory, a run (its best checkpoint), run@step, or a Hugging Face hub id
            such as "openai-community/gpt2", which is downloaded once. The LoRA in a folder of
            PEFT is merged into its base model; `kgpt.load_adapter` keeps it apart.
        dtype: of weights and computation: "float32", "bfloat16" or "float16", or a Keras policy.
        device: where the variables are placed, such as "gpu:0"; Keras's default if not given.
        weight_format: "int8" or "int4" keeps the matrices quantized in memory, to train adapters
            on them (QLoRA) or to run the model.

    Raises:
        KgptError: there is no such model, it is damaged, or kgpt cannot run it.
    """
    from kgpt import backend

    folder = resolve_source(source)
    with backend.device_scope(device) if device else contextlib.nullcontext():
        model = load_model(folder, dtype=dtype, weight_format=weight_format)
    model.name_or_path = str(base_folder(folder) if is_unmerged(folder) else source)
    if model.adapter_config is not None:
        import_module("kgpt.model.adapters").train_through_quantized(model)
    return model


def save_pretrained(
    model: GPT,
    folder: str | Path,
    tokenizer: Tokenizer | None = None,
    sampling: SamplingConfig | None = None,
) -> None:
    """Write `model` as the model directory `folder`, which is complete or not there at all.

    Args:
        folder: a new or empty folder, or a model directory, which is replaced; a model card that
            somebody edited is kept.
        tokenizer: saved with the model, so that text can be generated from the directory.
        sampling: the default sampling, saved with the tokenizer.

    Raises:
        UsageError: `folder` has files that are not part of a model directory.
    """
    if model.adapter_config is not None:
        raise UsageError(
            "The model has adapters: save them alone with kgpt.save_adapter, or merge them first "
            "with kgpt.merge_lora."
        )
    target = Path(folder)
    if target.exists() and not _is_replaceable(target):
        raise UsageError(f"{target} is not a model directory and not empty; choose another folder.")
    labels = getattr(model, "labels", ())
    card = ModelCard(target.resolve().name, model.config, model.name_or_path, labels=labels)
    with os_errors_as_kgpt(f"write {target}"), atomic_dir(target) as work:
        save_model(model, work, tokenizer, sampling=sampling)
        write_card(work, card, kept=target)


def _is_replaceable(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    files = list(folder.iterdir())
    known = all(file.is_file() and file.suffix in SUFFIXES for file in files)
    return not files or (known and (folder / "config.json").is_file())


# -- model directories ---------------------------------------------------------------------------


def path_below(variable: Any) -> str:
    """A variable's path without the model's own name: "block_0/attention/qkv"."""
    return str(variable.path).partition("/")[2]


def save_model(
    model: GPT,
    folder: Path,
    tokenizer: Tokenizer | None = None,
    sampling: SamplingConfig | None = None,
    dtype: str = "float32",
) -> None:
    """Write `model` to the existing `folder`.

    Args:
        sampling: the default sampling.
        dtype: the storage dtype: float32, bfloat16 or float16.
    """
    from kgpt import backend

    head = ClassifierHead.of(model)
    variables = {path_below(v): v for v in model.weights}
    values = head.as_config(model.config) if head else {}
    write_config(folder, model.config, tokenizer, sampling, dtype, **values)
    write_weights(
        folder,
        model.config,
        lambda path: backend.to_host(variables[path]),
        dtype,
        num_labels=head.num_labels if head else None,
    )


def write_config(
    folder: Path,
    config: ModelConfig,
    tokenizer: Tokenizer | None = None,
    sampling: SamplingConfig | None = None,
    dtype: str = "float32",
    generation: dict[str, Any] | None = None,
    **values: Any,
) -> None:
    """Write a model directory except its weights.

    Args:
        sampling: the default sampling.
        generation: contents of another model's generation_config.json, which are kept.
        values: go into config.json.
    """
    values = to_hugging_face(config) | {"torch_dtype": dtype} | values
    values["transformers_version"] = "4.46.0"
    values.setdefault("kgpt", {})["version"] = kgpt.__version__
    if tokenizer is not None:
        values |= {
            f"{name}_id": tokenizer.token_to_id(text)
            for name, text in tokenizer.special_tokens.tokens.items()
        }
        write_tokenizer(folder, tokenizer, config.max_length, sampling, generation)
    write_json(folder / "config.json", values)


def write_tokenizer(
    folder: Path,
    tokenizer: Tokenizer,
    max_length: int,
    sampling: SamplingConfig | None = None,
    generation: dict[str, Any] | None = None,
) -> None:
    """Write a tokenizer and the default sampling, as `write_config` does."""
    tokenizer.save(folder)
    write_json(folder / "tokenizer_config.json", tokenizer.tokenizer_config(max_length))
    values = generation_config(tokenizer.stop_ids, sampling, generation)
    write_json(folder / GENERATION_CONFIG, values)


def load_config(folder: Path) -> ModelConfig:
    """The `ModelConfig` of a model directory; of an adapter's folder, that of its base model."""
    folder = base_folder(folder)
    file = folder / "config.json"
    values = read_json_object(file)
    if not values:
        raise CheckpointError(f"{folder} has no config.json, so it is not a model directory.")
    try:
        return from_hugging_face(values)
    except KeyError as error:
        raise CheckpointError(f"{file} lacks the key {error}.") from None
    except UsageError as error:
        raise CheckpointError(f"{file} does not describe a valid model: {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(describe_damage(file, error)) from None


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model directory, or of an adapter or its base model."""
    return Tokenizer.load(tokenizer_folder(folder))


def load_model(
    folder: Path, seed: int = 0, config: ModelConfig | None = None, **options: Any
) -> GPT:
    """The model of a model directory.

    Each variable is read from the file when it is created: never more than one weight is in memory
    twice. An adapter's folder gives its base model, with LoRA and DoRA merged and other adapters
    beside its weights.

    Args:
        config: of the model, with other options than its own that change no weight: dropout.
        options: passed to `GPT`; `dtype="bfloat16"` stores and computes everything in bfloat16.
    """
    from kgpt.model.gpt import GPT
    from kgpt.model.initializers import CheckpointInitializer

    ClassifierHead.refuse(
        folder, "which generates no text; `kgpt classify` and `kgpt serve` run it."
    )
    config = config or load_config(folder)
    weights = Weights(base_folder(folder) if is_unmerged(folder) else folder, config)
    initializer = CheckpointInitializer(weights, config.initializer_range)
    model = GPT(config, seed=seed, initializer=initializer, **options)
    assign_vectors(model, weights)
    if is_unmerged(folder):
        model.add_adapter(read_adapter(folder, config).config(), seed=None, trains=False)
        import_module("kgpt.checkpoints.adapter_layout").assign_adapter(model, folder)
    return model


def load_weights(model: GPT, folder: Path) -> None:
    """Assign the weights of `folder` to `model`, of the same architecture, one at a time."""
    head = ClassifierHead.of(model)
    weights = Weights(folder, model.config, head.num_labels if head else None)
    _assign(model, weights, weights.shapes)


def assign_vectors(model: GPT, weights: Weights) -> None:
    """Assign what a `CheckpointInitializer` does not initialize: biases and norms."""
    _assign(model, weights, (path for path, shape in weights.shapes.items() if len(shape) == 1))


def _assign(model: GPT, weights: Weights, paths: Iterable[str]) -> None:
    from kgpt import backend

    variables = {path_below(v): v for v in model.weights}  # also frozen ones
    for path in paths:
        value = weights.read(path, variables[path].dtype)
        backend.distribution.assign_shards(variables[path], value)
