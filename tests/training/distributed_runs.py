"""Trains on meshes of 8 virtual devices and prints what was seen as JSON: a script.

JAX sees them only if it is told before it is imported, so tests run this as a process of its own.
"""

import json
import os
import re
import sys
import tempfile
from pathlib import Path

from tests.xla_flags import QUICK

# What devices hold and exchange does not depend on how well each one's machine code is optimized.
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {QUICK}"
os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np

from kgpt import backend
from kgpt.config import Config
from kgpt.training.checkpoint import copy_state, load_checkpoint, write_checkpoint
from kgpt.training.distribute import distribute
from kgpt.training.pretraining import build_model
from tests.training.meshes import ARCHITECTURES, BATCH, GPT2, LENGTH, MESHES, STEPS, VOCAB, batches

COLLECTIVES = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"


def main() -> None:
    seen = {
        f"{architecture}-{mesh}": observe(ARCHITECTURES[architecture], MESHES[mesh], batches(STEPS))
        for architecture in ARCHITECTURES
        for mesh in MESHES
    }
    json.dump(seen | {"resumed": resumed(batches(STEPS), STEPS // 2)}, sys.stdout)


def resumed(batches: list, step: int) -> list[float]:
    """The losses of a run on one mesh, which goes on with another after `step`."""
    with tempfile.TemporaryDirectory() as folder:
        first = model_on(GPT2, MESHES["mixed_fsdp"])
        losses = [first.train_on_batch(x, y, return_dict=True)["loss"] for x, y in batches[:step]]
        write_checkpoint(Path(folder) / "step", copy_state(first, step=step))
        second = model_on(GPT2, {"data": 2, "fsdp": True})
        load_checkpoint(Path(folder) / "step", second)
    return losses + [
        second.train_on_batch(x, y, return_dict=True)["loss"] for x, y in batches[step:]
    ]


def model_on(architecture: dict, mesh: dict):
    """A new model on a mesh."""
    config = Config.parse(
        {
            "model": architecture | {"vocab_size": VOCAB, "max_length": LENGTH},
            "train": {"batch_size": BATCH, "learning_rate": 0.01, "loss_chunk": 8},
            "distribute": mesh,
        }
    )
    distribute(config)
    return build_model(config)


def observe(architecture: dict, mesh: dict, batches: list) -> dict:
    """The losses of a run on a mesh, its program, and where its parameters are."""
    model = model_on(architecture, mesh)
    initial = sharded(v for v in model.variables if len(v.shape) == 2)
    losses = [model.train_on_batch(x, y, return_dict=True)["loss"] for x, y in batches]
    held = [*model.trainable_variables, *model.optimizer.variables]
    return {
        "losses": losses,
        "collectives": collectives(model, batches[0]),
        "largest": max(int(np.prod(v.shape)) for v in model.trainable_variables),
        "num_matrices": sum(len(v.shape) == 2 for v in model.trainable_variables),
        "matrices": sharded(v for v in held if len(v.shape) == 2),
        "initial": initial,
    }


def sharded(variables) -> dict[str, list[int]]:
    """Of each variable the bytes of all of it, and those that the first device has."""
    values = {v.path: v.value for v in variables}
    return {path: [x.nbytes, x.addressable_shards[0].data.nbytes] for path, x in values.items()}


def collectives(model, batch) -> list[tuple[str, list[list[int]]]]:
    """Each collective of the compiled train step: its name and the shapes of its results."""
    found = re.findall(rf"= (\(.*?\)|\S+) ({COLLECTIVES})(?:-start)?\(", program(model, batch))
    shapes = ((name, re.findall(r"\[([\d,]*)\]", results)) for results, name in found)
    return [(name, [[int(n) for n in x.split(",") if n] for x in sizes]) for name, sizes in shapes]


def program(model, batch) -> str:
    """The text of the compiled train step."""
    variables = (
        model.trainable_variables, model.non_trainable_variables, model.optimizer.variables,
        model.metrics_variables,
    )  # fmt: skip
    state = tuple([v.value for v in part] for part in variables)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    distribution = keras.distribution.distribution()
    x, y = batch
    if distribution is not None:
        layout = distribution.get_data_layout(x.shape).backend_layout
        x, y = (jax.device_put(part, layout) for part in (x, y))
    step = jax.jit(model.train_step, out_shardings=(None, shardings), donate_argnums=0)
    return step.lower(state, (x, y, None)).compile().as_text()


if __name__ == "__main__":
    assert backend.name == "jax"
    main()
