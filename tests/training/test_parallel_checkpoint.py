"""A checkpoint that several processes write is the one that a single process writes."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from kgpt.checkpoints.parts import Part, part_of_each
from kgpt.checkpoints.weights import Weights
from kgpt.config import Config
from kgpt.errors import CheckpointError
from kgpt.training.checkpoint import (
    TrainingState,
    copy_state,
    load_checkpoint,
    verify,
    write_checkpoint,
)
from kgpt.training.parallel_checkpoint import wait_for_parts
from kgpt.training.pretraining import build_model
from tests.training.meshes import BATCH, LENGTH, LLAMA, VOCAB, batches

CONFIG = Config.parse(
    {
        "model": LLAMA | {"vocab_size": VOCAB, "max_length": LENGTH},
        "train": {"batch_size": BATCH, "learning_rate": 0.01},
    }
)
ON_JAX = pytest.mark.skipif(
    os.environ["KERAS_BACKEND"] != "jax", reason="JAX's processes write, whatever reads"
)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.integers(1, 8))
def test_each_tensor_is_in_one_part_and_parts_are_stretches(sizes, count):
    parts = list(part_of_each({str(i): size for i, size in enumerate(sizes)}, count).values())
    assert parts == sorted(parts) and parts[0] >= 0 and parts[-1] < count
    held = [sum(s for s, p in zip(sizes, parts, strict=True) if p == n) for n in range(count)]
    assert max(held) <= sum(sizes) / count + max(sizes)


def parts_of(state: TrainingState, count: int) -> list[TrainingState]:
    """The states of `count` processes that have one between them."""

    def own(arrays: dict, number: int) -> dict:
        owners = part_of_each({name: x.nbytes for name, x in arrays.items()}, count)
        return {name: x for name, x in arrays.items() if owners[name] == number}

    return [
        replace(
            state,
            weights=own(state.weights, number),
            variables=own(state.variables, number),
            part=Part(number, count),
        )
        for number in range(count)
    ]


def trained(steps=1):
    model = build_model(CONFIG)
    for x, y in batches(steps):
        model.train_on_batch(x, y)
    return model


@pytest.mark.portable
def test_parts_are_one_checkpoint(tmp_path):
    state = copy_state(trained(), step=1)
    write_checkpoint(tmp_path / "whole", state)
    for part in reversed(parts_of(state, 3)):  # the first completes it, so it is the last here
        write_checkpoint(tmp_path / "parts", part)
    verify(tmp_path / "parts")
    assert [file.name for file in sorted((tmp_path / "parts").glob("*.safetensors"))] == [
        f"{kind}-0000{n}-of-00003.safetensors" for kind in ("model", "optimizer") for n in (1, 2, 3)
    ]
    assert not list(tmp_path.glob(".*")), "a temporary folder is left"
    whole, parts = (Weights(tmp_path / name, CONFIG.model) for name in ("whole", "parts"))
    assert whole.shapes == parts.shapes
    assert all((whole.read(path) == parts.read(path)).all() for path in whole.shapes)
    again = build_model(CONFIG)
    assert load_checkpoint(tmp_path / "parts", again)["step"] == 1
    loaded = copy_state(again, step=1)
    assert loaded.variables.keys() == state.variables.keys()
    assert all((loaded.variables[name] == x).all() for name, x in state.variables.items())


def test_a_part_that_does_not_come_is_a_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="Process 0 of 2 has not written its part"):
        wait_for_parts(tmp_path, 2, timeout_s=0.0)


@pytest.mark.proof
@pytest.mark.backend
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=ON_JAX)])
def test_processes_write_what_one_does(count, tmp_path):
    """On a mesh of 2 x 2 devices with FSDP; one process reads it, on any backend."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "tests.training.parallel_checkpoint_runs", address, str(count)]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "step"), json.dumps(CONFIG.model_dump())],
            cwd=Path(__file__).parents[2], env=environment, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors[-3000:]
    verify(tmp_path / "step")
    sizes = [file.stat().st_size for file in sorted((tmp_path / "step").glob("model-*"))]
    assert len(sizes) == count and max(sizes) < 1.4 / count * sum(sizes)
    model = build_model(CONFIG)
    load_checkpoint(tmp_path / "step", model)
    alone = trained(2)
    ours, theirs = copy_state(alone), copy_state(model)
    for path, value in ours.weights.items():
        np.testing.assert_allclose(theirs.weights[path], value, atol=1e-4, err_msg=path)
    x, y = batches(3)[2]
    losses = [m.test_on_batch(x, y, return_dict=True)["loss"] for m in (model, alone)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.proof
def test_transformers_reads_the_parts(tmp_path):
    transformers = pytest.importorskip("transformers")
    for part in reversed(parts_of(copy_state(build_model(CONFIG)), 2)):
        write_checkpoint(tmp_path / "parts", part)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "parts").state_dict()
    stored = {}
    for file in (tmp_path / "parts").glob("model-*.safetensors"):
        stored |= load_file(file)
    assert stored.keys() <= theirs.keys()
    assert all((theirs[name].numpy() == value).all() for name, value in stored.items())
