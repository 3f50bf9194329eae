"""Checkpoints: a model directory plus what training needs to go on exactly.

    config.json, model.safetensors, tokenizer.json, ...   a model directory, ready to use
    optimizer.safetensors    optimizer variables, dropout counter; raw weights if averages are kept
    trainer_state.json           step, backend, best validation loss
    checksums.json          SHA-256 of every file above

Everything is stored by path, so a run may stop on one backend and go on with another. A checkpoint
is written under a temporary name and renamed: a crash leaves the one before untouched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kgpt import backend
from kgpt.checkpoints.pretrained import load_weights, path_below, save_model
from kgpt.errors import CheckpointError
from kgpt.files import atomic_dir, os_errors_as_kgpt, sha256, write_json
from kgpt.model.gpt import GPT
from kgpt.training.optimizers import unwrapped

ACCUMULATOR = "gradient_accumulator"


def save_checkpoint(folder: Path, model: GPT, tokenizer=None, sampling=None, **facts: Any) -> None:
    """Write the checkpoint `folder` of a compiled model; `facts` go into trainer_state.json."""
    backend.sync_model_state(model)
    averages = ema_weights(model)
    state = {
        name: variable
        for name, variable in _training_variables(model)
        if ACCUMULATOR not in name or _between_updates(model)
    }
    if averages is not None:
        state |= {f"weights/{path_below(v)}": v for v in model.trainable_variables}
    with os_errors_as_kgpt(f"save the checkpoint {folder}"), atomic_dir(folder) as work:
        save_model(model, work, tokenizer, weights=averages, sampling=sampling)
        arrays = {name: np.array(v.numpy(), order="C") for name, v in state.items()}
        save_file(arrays, work / "optimizer.safetensors")
        write_json(work / "trainer_state.json", {"backend": backend.name, **facts})
        sums = {file.name: sha256(file) for file in sorted(work.iterdir())}
        write_json(work / "checksums.json", sums)


def verify(folder: Path) -> None:
    """Raise `CheckpointError` unless every file of a checkpoint has the bytes it was saved with."""
    try:
        sums = json.loads((folder / "checksums.json").read_text(encoding="utf-8"))
        changed = [name for name, value in sums.items() if sha256(folder / name) != value]
    except (OSError, ValueError, AttributeError):
        raise CheckpointError(f"The checkpoint {folder} is incomplete.") from None
    if changed:
        raise CheckpointError(f"The checkpoint {folder} is damaged: {changed[0]} has changed.")


def load_checkpoint(folder: Path, model: GPT) -> dict[str, Any]:
    """Put a compiled model and its optimizer where they were; returns the facts saved.

    The model must have been compiled with the optimizer that was in use.
    """
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    load_weights(model, folder)
    file = folder / "optimizer.safetensors"
    try:
        with safe_open(file, framework="np") as tensors:
            names = set(tensors.keys())
            for name, variable in _training_variables(model):
                if name not in names and ACCUMULATOR in name:
                    variable.assign(np.zeros(variable.shape, dtype=variable.dtype))
                    continue
                if name not in names:
                    raise CheckpointError(
                        f"{file} lacks {name}; resume with the optimizer and precision "
                        "that the run began with."
                    )
                variable.assign(tensors.get_tensor(name).astype(variable.dtype))
            for variable in model.trainable_variables:
                if (name := f"weights/{path_below(variable)}") in names:
                    variable.assign(tensors.get_tensor(name))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be loaded: {error}.") from None
    facts = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    made = int(unwrapped(model.optimizer).iterations)
    model.skipped_steps = max(0, facts.get("step", made) - made)
    return facts


def ema_weights(model: GPT) -> dict[str, np.ndarray] | None:
    """The averaged weights by path, if the optimizer keeps them and has made a step."""
    optimizer = unwrapped(model.optimizer)
    averages = getattr(optimizer, "averages", lambda: None)()
    if averages is None or int(optimizer.iterations) == 0:
        return None
    return {
        path_below(variable): average.numpy()
        for variable, average in zip(model.trainable_variables, averages, strict=True)
    }


def _between_updates(model: GPT) -> bool:
    """Do the gradient accumulators hold something?

    Checkpoints are made when they were just used up; unless float16 has skipped a batch, and the
    update comes later than usual.
    """
    optimizer = unwrapped(model.optimizer)
    return int(optimizer._iterations) % (optimizer.gradient_accumulation_steps or 1) != 0


def _training_variables(model: GPT) -> Iterator[tuple[str, Any]]:
    """Everything but the weights that the next step depends on, by a name all backends share."""
    for variable in model.optimizer.variables:
        yield f"optimizer/{path_below(variable)}", variable
    yield "dropout_key/count", model.dropout_key.count
