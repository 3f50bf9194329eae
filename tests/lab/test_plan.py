"""`kgpt plan`: the memory and time models agree with the counts that they are made of."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from kgpt.cli import main
from kgpt.config import Config, DistributeConfig
from kgpt.config.parameters import parameter_shapes
from kgpt.errors import UsageError
from kgpt.lab.accelerators import SHORT_NAMES, Interconnect, find_accelerator
from kgpt.lab.communication import CommunicationTime, communication_time, exposed, gather_time
from kgpt.lab.measured import read_measurement
from kgpt.lab.memory_model import sharded_bytes, training_memory
from kgpt.lab.plan import flops_per_token, largest_batch, longest_context, make_plan, usable_memory
from kgpt.lab.roofline import compute_time, matmul_flops
from kgpt.lab.trainable import trainable_shapes

H100 = find_accelerator("h100", "bfloat16")
WIDE = DistributeConfig(data=4, model=2, fsdp=True)


def configuration(train=None, distribute=None, finetune=None, **model):
    shape = {"vocab_size": 512, "num_layers": 3, "num_heads": 4, "hidden_dim": 64,
             "max_length": 128} | model  # fmt: skip
    return Config.parse({
        "model": shape,
        "train": {"batch_size": 8, "precision": "bfloat16"} | (train or {}),
        "distribute": distribute or {},
        "finetune": finetune or {},
    })  # fmt: skip


def parts(config):
    return training_memory(config, H100)


@pytest.mark.parametrize(("optimizer", "moments"), [("adamw", 2), ("lion", 1)])
def test_weights_gradients_and_moments_are_as_many_as_parameters(optimizer, moments):
    config = configuration({"optimizer": optimizer, "precision": "float32"})
    memory, size = parts(config), 4 * config.model.num_parameters()
    assert (memory.weights, memory.gradients, memory.optimizer) == (size, size, moments * size)
    averaged = parts(configuration({"optimizer": optimizer, "ema_decay": 0.9}))
    assert averaged.optimizer == (moments + 1) * size


def test_muon_keeps_one_moment_of_the_matrices_of_blocks():
    config = configuration({"optimizer": "muon"})
    shapes = dict(parameter_shapes(config.model))
    blocks = {p: s for p, s in shapes.items() if p.startswith("block_") and len(s) == 2}
    whole, one = DistributeConfig(), 4 * config.model.num_parameters()
    assert parts(config).optimizer == 2 * one - sharded_bytes(blocks.items(), whole)


def test_fsdp_divides_matrices_by_the_devices_and_copies_the_rest():
    config = configuration()
    shapes = dict(parameter_shapes(config.model))
    matrices = {path: shape for path, shape in shapes.items() if len(shape) == 2}
    fsdp = DistributeConfig(data=4, fsdp=True)
    assert 4 * sharded_bytes(matrices.items(), fsdp) == sharded_bytes(
        matrices.items(), DistributeConfig()
    )
    vectors = shapes.keys() - matrices.keys()
    same = {path: shapes[path] for path in vectors}
    assert sharded_bytes(same.items(), fsdp) == sharded_bytes(same.items(), DistributeConfig())


def test_activations_are_divided_along_data_and_grow_with_the_batch():
    one = parts(configuration()).activations
    assert parts(configuration(distribute={"data": 4})).activations * 4 == one
    assert parts(configuration({"batch_size": 16})).activations == 2 * one
    assert parts(configuration({"gradient_checkpointing": True})).activations < one


def test_a_device_that_does_not_recompute_keeps_all():
    recomputed = configuration({"gradient_checkpointing": True})
    kept = training_memory(recomputed, replace(H100, recomputes=False))
    assert kept.activations == parts(configuration()).activations


def test_adapters_alone_have_gradients_and_moments():
    config = configuration(finetune={"objective": "sft", "method": "lora"})
    trained = sum(a * b for _, (a, b) in trainable_shapes(config))
    d, rank, layers = 64, 8, 3
    # q, k and v are one module of GPT-2's format: inputs and outputs of each matrix product
    assert trained == layers * rank * ((d + 3 * d) + (d + d) + (d + 4 * d) + (4 * d + d))
    memory = parts(config)
    assert (memory.gradients, memory.optimizer) == (4 * trained, 8 * trained)
    int8 = configuration(finetune={"objective": "sft", "method": "lora", "base_precision": "int8"})
    assert parts(int8).weights < memory.weights / 3


def test_frozen_weights_have_no_gradients():
    finetune = {"objective": "sft", "freeze_layers": 2}
    paths = [path for path, _ in trainable_shapes(configuration(finetune=finetune))]
    assert {path.split("/")[0] for path in paths} == {"block_2", "final_norm"}


def test_operations_are_those_of_the_literature_where_all_scores_are_computed():
    config = configuration(dropout=0.1)
    assert matmul_flops(config) == config.model.flops_per_token()
    causal = configuration(max_length=256)
    assert matmul_flops(causal, flash_attention=True) < matmul_flops(causal)


def test_frozen_weights_take_four_operations_and_adapters_six():
    config = configuration()
    frozen = configuration(finetune={"objective": "sft", "method": "lora"})
    adapters = sum(a * b for _, (a, b) in trainable_shapes(frozen))
    weights = config.model.num_parameters() - 128 * 64  # without the position table
    assert matmul_flops(config) - matmul_flops(frozen) == 2 * weights - 6 * adapters


def test_recomputation_takes_a_third_more_matrix_products():
    plain, less = configuration(), configuration({"gradient_checkpointing": True})
    times = [compute_time(config, H100, parts(config)).matmul for config in (plain, less)]
    assert times[1] == pytest.approx(times[0] * 4 / 3)


NETWORK = Interconnect(link_gb=400, network_gb=50, node_size=8)


def test_a_ring_sends_all_but_the_own_part():
    assert gather_time(1e9, 1, 8, NETWORK) == 0
    assert gather_time(400e9, 4, 8, NETWORK) == pytest.approx(3 / 4)
    # Two nodes: in the node as before, and each device half of its eighth to the other node.
    assert gather_time(400e9, 16, 8, NETWORK) == pytest.approx(7 / 8 + 1 / 2)


def test_an_all_reduce_is_two_thirds_of_the_traffic_of_fsdp():
    replicated = configuration(distribute={"data": 4})
    sharded = configuration(distribute={"data": 4, "fsdp": True})
    times = [communication_time(config, NETWORK) for config in (replicated, sharded)]
    assert times[1].data == pytest.approx(times[0].data * 3 / 2)
    assert times[0].model == times[1].model == 0
    assert communication_time(configuration(), NETWORK) == CommunicationTime()


def test_tensor_parallelism_reduces_four_times_in_a_block():
    config = configuration(distribute={"model": 2})
    stream = 8 * 128 * 64 * 2  # tokens x D in bfloat16
    expected = (4 * 3 + 2) * 2 * (1 / 2) * stream / 400e9
    assert communication_time(config, NETWORK).model == pytest.approx(expected)


def test_gradients_are_hidden_behind_the_backward_pass():
    assert exposed(CommunicationTime(data=2.0, model=0.5), 3.0) == 0.5
    assert exposed(CommunicationTime(data=2.5, model=0.5), 3.0) == 1.0


def test_the_largest_sizes_fit_and_the_next_do_not():
    config = configuration(hidden_dim=1024, num_heads=16, num_layers=12)
    batch, usable = largest_batch(config, H100), usable_memory(H100)
    fits = lambda changed: training_memory(changed, H100).peak <= usable  # noqa: E731
    assert fits(configuration({"batch_size": batch}, **config.model.model_dump()))
    assert not fits(configuration({"batch_size": batch + 1}, **config.model.model_dump()))
    context = longest_context(config, H100)
    longer = config.model.model_dump() | {"max_length": context + 128}
    assert context % 128 == 0 and not fits(configuration(**longer))


def test_the_best_mesh_is_the_fastest_that_fits():
    config = configuration(num_layers=48, hidden_dim=4096, num_heads=32, max_length=1024)
    plan = make_plan(config, H100, num_devices=8)
    assert plan.best.fits and plan.best.mesh.num_devices == 8
    assert not next(one for one in plan.meshes if one.mesh == DistributeConfig(data=8)).fits
    assert plan.best.step_s == min(one.step_s for one in plan.meshes if one.fits)
    alone = make_plan(config, H100)
    assert not alone.best.fits and alone.largest_batch == 0


def test_other_activations_are_those_of_the_other_settings():
    config = configuration()
    found = make_plan(config, H100).other_activations
    recomputed = configuration({"gradient_checkpointing": True})
    assert found["with gradient checkpointing"] == parts(recomputed).activations
    naive = training_memory(config, replace(H100, flash_attention=False)).activations
    assert found["without flash attention"] == naive > parts(config).activations


def test_time_and_cost_follow_from_tokens_and_price():
    plan = make_plan(configuration(), H100, num_devices=8, tokens=1e9, price_per_hour=3.0)
    assert plan.time_s == pytest.approx(1e9 / plan.best.tokens_per_s)
    assert plan.cost == pytest.approx(8 * 3.0 * plan.time_s / 3600)
    assert make_plan(configuration({"max_steps": 7}), H100).tokens == 7 * 8 * 128


def test_accumulation_updates_once():
    one, four = (make_plan(configuration({"grad_accumulation": n}), H100).best for n in (1, 4))
    passes = one.compute.forward_backward
    assert one.step_s == pytest.approx(passes + one.compute.update)
    assert four.step_s == pytest.approx(4 * passes + four.compute.update)


def test_what_cannot_be_divided_is_a_sentence():
    with pytest.raises(UsageError, match="batch_size 8 cannot be divided among 3"):
        make_plan(configuration(distribute={"data": 3}), H100)
    with pytest.raises(UsageError, match="batch_size 1 cannot be divided among 64"):
        make_plan(configuration({"batch_size": 1}), H100, num_devices=64)
    found = make_plan(configuration({"batch_size": 12}), H100, num_devices=8)
    assert found.meshes and "batch_size 12 cannot be divided among 8" in found.refused[0]
    assert not make_plan(configuration(), H100, num_devices=4).refused


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_every_named_device_has_a_plan(name):
    precision = "float16" if name in ("t4", "v100") else "bfloat16"
    device = find_accelerator(name, precision)
    plan = make_plan(configuration({"precision": precision}), device, num_devices=4)
    assert 0 < plan.best.mfu < device.efficiency


def test_unknown_devices_and_precisions_are_sentences():
    with pytest.raises(UsageError, match="did you mean h100"):
        find_accelerator("h10", "bfloat16")
    with pytest.raises(UsageError, match="no peak for bfloat16"):
        find_accelerator("t4", "bfloat16")


def bench_line(**changes):
    row = {"batch": 4, "tokens_per_s": 1e5}
    figures = {
        "config": "x",
        "device": "NVIDIA H200",
        "precision": "bfloat16",
        "flops_per_token": 10**9,
        "batches": [row, row | {"batch": 8, "tokens_per_s": 2e5}],
    }
    return json.dumps(figures | changes)


def test_a_measured_speed_is_scaled_by_operations(tmp_path):
    file, config = tmp_path / "bench.jsonl", configuration()
    file.write_text(f"{bench_line()}\n{bench_line(device='cpu')}\n")
    found = read_measurement(file, "H200", "bfloat16", 10**8)
    assert (found.batch_size, found.flops_per_s) == (8, 2e14)
    plan = make_plan(config, find_accelerator("h200", "bfloat16"), measurement=found)
    assert plan.best.tokens_per_s * flops_per_token(config) == pytest.approx(2e14)
    with pytest.raises(UsageError, match="measure that"):
        read_measurement(file, "H100 80GB HBM3", "bfloat16", 10**8)
    file.write_text("{}")
    with pytest.raises(UsageError, match="not of `kgpt bench train --json`"):
        read_measurement(file, "H200", "bfloat16", 10**8)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["plan", *map(str, arguments)])
    return ended.value.code, capsys.readouterr()


def test_the_command_prints_what_was_planned(capsys):
    code, shown = run(capsys, "gpt2", "--device", "h100", "--devices", 8, "--train.batch-size", 64,
                      "--tokens", "10e9", "--price-per-hour", 2, "--json")  # fmt: skip
    plan = json.loads(shown.out)
    assert code == 0 and plan["tokens"] == 10**10 and plan["num_devices"] == 8
    assert plan["best"] == plan["meshes"][0] and "vocabulary" in plan["notes"][0]
    code, shown = run(capsys, "gpt2", "--device", "h100", "--devices", 4)
    assert code == 0 and "activations" in shown.out and "4 data x 1 model" in shown.out


@pytest.mark.parametrize(
    "arguments",
    [("gpt2", "--device", "h99x"), ("gpt2", "--devices", "0"), ("grpo", "--device", "h100"),
     ("lora", "--device", "h100"), ("gpt2", "--device", "h100", "--measured", "missing.json")],
)  # fmt: skip
def test_a_wrong_command_is_one_sentence(arguments, capsys):
    code, shown = run(capsys, *arguments)
    assert code in (1, 2) and shown.err.startswith("kgpt: ") and shown.err.count("\n") == 1


def test_a_plan_for_a_named_device_imports_no_keras():
    script = (
        "import sys\nfrom kgpt.cli import main\n"
        "try: main(['plan', 'gpt2', '--device', 'a100', '--json'])\n"
        "except SystemExit as ended: assert not ended.code\n"
        "assert not {'keras', 'jax', 'torch', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
