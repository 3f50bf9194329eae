"""A run on 8 devices is the run of one: its losses, and what the devices hold and exchange."""

import json
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest

from tests.training.meshes import ARCHITECTURES, BATCH, LENGTH, MESHES, VOCAB

pytestmark = pytest.mark.proof
SHARDED = {
    "model": 2,
    "mixed": 2,
    "sequence": 2,
    "fsdp": 8,
    "mixed_fsdp": 8,
}  # among how many devices


@pytest.fixture(scope="module")
def seen():
    """What the script saw: by architecture and mesh."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.distributed_runs"],
        capture_output=True, text=True, timeout=900, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("mesh", [mesh for mesh in MESHES if mesh != "one"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_losses_are_those_of_one_device(seen, architecture, mesh):
    found = seen[f"{architecture}-{mesh}"]["losses"]
    assert found == pytest.approx(seen[f"{architecture}-one"]["losses"], abs=1e-5, rel=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_device_exchanges_nothing(seen, architecture):
    assert not seen[f"{architecture}-one"]["collectives"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_data_parallelism_sums_gradients_and_nothing_else(seen, architecture):
    assert {name for name, _ in seen[f"{architecture}-data"]["collectives"]} == {"all-reduce"}


@pytest.mark.parametrize("mesh", SHARDED)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_logits_leave_their_device(seen, architecture, mesh):
    """Sums over the vocabulary are exchanged, and rows of its table: nothing that ends in V."""
    results = [
        shape for _, shapes in seen[f"{architecture}-{mesh}"]["collectives"] for shape in shapes
    ]
    assert results
    assert not [shape for shape in results if shape[-1:] in ([VOCAB], [VOCAB // 2])]


@pytest.mark.parametrize("mesh", ["model", "mixed"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_parameter_is_gathered_without_fsdp(seen, architecture, mesh):
    names = {name for name, _ in seen[f"{architecture}-{mesh}"]["collectives"]}
    assert "all-reduce" in names and "all-gather" not in names


@pytest.mark.parametrize("mesh", ["fsdp", "mixed_fsdp"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fsdp_gathers_one_parameter_at_a_time_in_each_pass(seen, architecture, mesh):
    found = seen[f"{architecture}-{mesh}"]
    gathered = [shapes for name, shapes in found["collectives"] if name == "all-gather"]
    in_blocks = 4 * ARCHITECTURES[architecture]["num_layers"]
    assert len(gathered) >= found["num_matrices"] + in_blocks
    assert all(len(shapes) == 1 for shapes in gathered), "several are gathered as one"
    assert max(prod(shape) for (shape,) in gathered) <= found["largest"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sequences_are_gathered_for_the_products_alone(seen, architecture):
    """The tokens of a device, (B / 4, T / 2, D), as (B / 4, T, D), before attention and MLP."""
    of_device = [BATCH // 4, LENGTH, 32]
    gathered = [
        shapes
        for name, shapes in seen[f"{architecture}-sequence"]["collectives"]
        if name == "all-gather"
    ]
    assert len(gathered) >= 2 * ARCHITECTURES[architecture]["num_layers"]
    assert {prod(shape) for shapes in gathered for shape in shapes} == {prod(of_device)}


def test_a_run_goes_on_with_another_mesh(seen):
    """From a checkpoint of 8 devices on 2, with sums in another order."""
    assert seen["resumed"] == pytest.approx(seen["gpt2-one"]["losses"], abs=1e-5, rel=0)


@pytest.mark.parametrize("mesh", SHARDED)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_device_holds_its_share_alone(seen, architecture, mesh):
    """Of matrices and their momenta, as they are initialized and after training."""
    found = seen[f"{architecture}-{mesh}"]
    for path, (whole, held) in (found["initial"] | found["matrices"]).items():
        devices = SHARDED[mesh]
        if "position_embedding" in path:  # whose rows no two devices of `model` share
            devices = MESHES[mesh].get("data", 1) if MESHES[mesh].get("fsdp") else 1
        assert held * devices == whole, path
