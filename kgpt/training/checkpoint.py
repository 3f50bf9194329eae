"""Checkpoints: a model directory plus the training state needed to resume exactly.

    config.json, model.safetensors, tokenizer.json, ...   a complete model directory; of a model
                            with adapters, these alone, as a folder of PEFT
    optimizer.safetensors   optimizer variables, dropout counter; raw weights if an EMA is kept
    trainer_state.json      step, backend, optimizer, best validation loss
    checksums.json          SHA-256 of every file above
    README.md               the model card, which may be edited

Several processes write it together, each its own files of both kinds: see `parallel_checkpoint`.

Variables are stored by path, so a run can stop on one backend and resume on another. A checkpoint
is written under a temporary name and renamed: a crash leaves the previous one untouched.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kgpt import backend
from kgpt.backend import keras_internals
from kgpt.checkpoints.hf_config import from_hugging_face, to_hugging_face
from kgpt.checkpoints.model_card import describe_model, write_card
from kgpt.checkpoints.parts import ALONE, Part, write_index
from kgpt.checkpoints.pretrained import (
    OPTIMIZER_STATE,
    TRAINER_STATE,
    load_config,
    path_below,
    training_state_file,
)
from kgpt.checkpoints.safetensors_io import TensorEntry, open_tensors, write_arrays
from kgpt.config import ModelConfig, SamplingConfig
from kgpt.errors import CheckpointError, KgptError
from kgpt.files import atomic_dir, finish_dir, os_errors_as_kgpt, sha256, write_json
from kgpt.text.tokenizer import Tokenizer
from kgpt.training.optimizers import ema_weights, unwrap_optimizer
from kgpt.training.parallel_checkpoint import (
    copy_own,
    finish_part,
    own_part,
    wait_for_parts,
    work_folder,
)
from kgpt.training.stored_weights import Layout, StoredWeights, gpt_of

ACCUMULATOR = "gradient_accumulator"
NOT_ARCHITECTURE = ("dropout", "initializer_range")  # options of a model that change no weight


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint is written from: a copy in host memory, which training does not change.

    Attributes:
        layout: how the weights are written.
        weights: arrays by path, the EMA if one is kept; of model.safetensors.
        variables: arrays by name; of optimizer.safetensors.
        metadata: of trainer_state.json.
        part: what is in the two, if other processes write the rest.
    """

    layout: Layout
    weights: dict[str, np.ndarray]
    variables: dict[str, np.ndarray]
    metadata: dict[str, Any]
    part: Part = ALONE


def copy_state(
    model: keras.Model, stored: StoredWeights | None = None, **metadata: Any
) -> TrainingState:
    """The state of a compiled model now, with `metadata` such as the step.

    Of a group, all processes must call it, and each has a part of the state.

    Args:
        model: a `kgpt.GPT`, or one around it: see `kgpt.training.stored_weights`.
        stored: which weights; by default all those of the `kgpt.GPT`, or its adapters alone.
    """
    backend.sync_model_state(model)
    stored, part = stored or StoredWeights(), own_part()
    layout, weights = stored.layout(model), stored.variables(model)
    variables = dict(_training_variables(model))
    if not _mid_accumulation(model):
        variables = {name: v for name, v in variables.items() if ACCUMULATOR not in name}
    averages = ema_weights(model)
    if averages is not None:
        trained = {path_below(v): v for v in model.trainable_variables}
        variables |= {f"weights/{path}": v for path, v in trained.items()}
        weights |= dict(zip(trained, averages, strict=True))
    if part.count > 1:
        weights = copy_own(weights, part, layout.has_parts)
        variables = copy_own(variables, part)
    else:
        weights, variables = backend.to_host((weights, variables))
        if backend.device()[0] == "cpu":  # these are views, which the next step changes
            weights, variables = keras.tree.map_structure(np.array, (weights, variables))
    optimizer = unwrap_optimizer(model.optimizer)
    about = {
        "backend": backend.name,
        "optimizer": optimizer_name(optimizer),
        "grad_accumulation": optimizer.gradient_accumulation_steps or 1,
    }
    return TrainingState(layout, weights, variables, about | metadata, part)


def optimizer_name(optimizer: Any) -> str:
    """What `train.optimizer` calls an optimizer: adamw, lion, muon."""
    return type(optimizer).__name__.lower()


def write_checkpoint(
    folder: Path,
    state: TrainingState,
    tokenizer: Tokenizer | None = None,
    sampling: SamplingConfig | None = None,
) -> None:
    """Write the checkpoint `folder`, complete or not at all.

    Of a group, each process writes its part, and the first makes the checkpoint of them.
    """
    with os_errors_as_kgpt(f"save the checkpoint {folder}"):
        if state.part.count > 1:
            _write_part(folder, state, tokenizer, sampling)
            return
        with atomic_dir(folder) as work:
            state.layout.write(work, state.weights, tokenizer, sampling)
            write_arrays(work / OPTIMIZER_STATE, state.variables)
            sums = {file.name: sha256(file) for file in sorted(work.iterdir())}
            _complete(work, state, sums, folder)


def _write_part(
    folder: Path,
    state: TrainingState,
    tokenizer: Tokenizer | None,
    sampling: SamplingConfig | None,
) -> None:
    """Write this process's part of a checkpoint, and in the first process wait for the others."""
    part, work = state.part, work_folder(folder)
    state.layout.write_part(work, state.weights, part)
    part.write(work, OPTIMIZER_STATE, state.variables)
    finish_part(work, part)
    if not part.is_first:
        return
    sums = wait_for_parts(work, part.count)
    state.layout.write_rest(work, state.weights, tokenizer, sampling, part)
    write_index(work, OPTIMIZER_STATE, part.count)
    rest = [file for file in work.iterdir() if file.name not in sums]
    _complete(work, state, sums | {file.name: sha256(file) for file in rest}, folder)
    finish_dir(work, folder)


def _complete(work: Path, state: TrainingState, sums: dict[str, str], folder: Path) -> None:
    """Write what a checkpoint has beside weights and optimizer variables."""
    write_json(work / TRAINER_STATE, state.metadata)
    sums |= {TRAINER_STATE: sha256(work / TRAINER_STATE)}
    write_json(work / "checksums.json", dict(sorted(sums.items())))
    with contextlib.suppress(KgptError):  # a file for people, which no run fails for
        write_card(work, describe_model(work, load_config(work), checkpoint=folder))


def verify(folder: Path) -> None:
    """Raise `CheckpointError` unless every file of a checkpoint has the bytes it was saved with."""
    try:
        sums = json.loads((folder / "checksums.json").read_text(encoding="utf-8"))
        changed = [name for name, value in sums.items() if sha256(folder / name) != value]
    except (OSError, ValueError, AttributeError):
        raise CheckpointError(f"The checkpoint {folder} is incomplete.") from None
    if changed:
        raise CheckpointError(f"The checkpoint {folder} is damaged: {changed[0]} has changed.")


def read_trainer_state(folder: Path) -> dict[str, Any]:
    """The contents of a checkpoint's trainer_state.json."""
    file = training_state_file(folder, TRAINER_STATE)
    state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return state


def check_fits(folder: Path, config: ModelConfig, optimizer: str) -> None:
    """Raise `CheckpointError` unless a checkpoint is of this architecture and this optimizer.

    Checkpoints of earlier versions do not name their optimizer; it is not compared then.
    """
    stored, wanted = load_config(folder), from_hugging_face(to_hugging_face(config))
    for name in ModelConfig.model_fields:
        saved, given = getattr(stored, name), getattr(wanted, name)
        if saved != given and name not in NOT_ARCHITECTURE:
            raise CheckpointError(
                f"The checkpoint {folder} has model.{name} {saved}, but the model that it is to be "
                f"loaded into has {given}; give {saved}, or start a new run."
            )
    saved = read_trainer_state(folder).get("optimizer", optimizer)
    if saved != optimizer:
        raise CheckpointError(
            f"The checkpoint {folder} holds the state of the optimizer {saved}, not of "
            f"{optimizer}; give {saved}, or start a new run."
        )


def load_checkpoint(
    folder: Path, model: keras.Model, stored: StoredWeights | None = None
) -> dict[str, Any]:
    """Restore a compiled model and its optimizer; returns the contents of trainer_state.json.

    Gradients may be accumulated over another number of batches than before. `stored` is as in
    `copy_state`.

    Raises:
        CheckpointError: the checkpoint is damaged, or of another architecture or optimizer.
    """
    optimizer = unwrap_optimizer(model.optimizer)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    check_fits(folder, gpt_of(model).config, optimizer_name(optimizer))
    (stored or StoredWeights()).load(model, folder)
    file = training_state_file(folder, OPTIMIZER_STATE)
    try:
        _assign_training_variables(model, open_tensors(folder, file.name), file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be loaded: {error}.") from None
    metadata = read_trainer_state(folder)
    _convert_accumulation(optimizer, metadata)
    updates = int(backend.to_host(optimizer.iterations))
    model.skipped_steps = max(0, metadata.get("step", updates) - updates)
    return metadata


def _assign_training_variables(
    model: keras.Model, tensors: Mapping[str, TensorEntry], file: Path
) -> None:
    for name, variable in _training_variables(model):
        if name not in tensors and ACCUMULATOR in name:
            variable.assign(np.zeros(variable.shape, dtype=variable.dtype))
            continue
        if name not in tensors:
            raise CheckpointError(
                f"{file} lacks {name}; resume with the optimizer and precision "
                "that the run began with."
            )
        _assign(variable, tensors[name])
    for variable in model.trainable_variables:
        if (name := f"weights/{path_below(variable)}") in tensors:
            _assign(variable, tensors[name])


def _assign(variable: Any, tensor: TensorEntry) -> None:
    value = tensor.read().reshape(tensor.shape).astype(variable.dtype)
    backend.distribution.assign_shards(variable, value)


def _convert_accumulation(optimizer: Any, metadata: dict[str, Any]) -> None:
    """Keep the number of updates where gradients are accumulated over another number of batches.

    Keras counts batches. Gradients of an unfinished update are dropped.
    """
    batches = keras_internals.micro_iterations(optimizer)
    count, now = int(backend.to_host(batches)), optimizer.gradient_accumulation_steps or 1
    earlier = max(1, round(count / (metadata.get("step") or count or 1)))  # of earlier versions
    before = metadata.get("grad_accumulation", earlier)
    if before == now:
        return
    batches.assign(count // before * now)
    for variable in optimizer.variables:
        if ACCUMULATOR in variable.path:
            variable.assign(np.zeros(variable.shape, dtype=variable.dtype))


def _mid_accumulation(model: keras.Model) -> bool:
    """Do the gradient accumulators hold gradients of an unfinished update?

    Checkpoints are saved right after an update, unless float16 loss scaling has skipped a batch
    and shifted the update.
    """
    optimizer = unwrap_optimizer(model.optimizer)
    batches = int(backend.to_host(keras_internals.micro_iterations(optimizer)))
    return batches % (optimizer.gradient_accumulation_steps or 1) != 0


def _training_variables(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """The variables besides the weights that the next step depends on, by backend-neutral name."""
    for variable in model.optimizer.variables:
        yield f"optimizer/{path_below(variable)}", variable
    yield "dropout_key/count", gpt_of(model).dropout_key.count
