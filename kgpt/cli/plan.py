"""`kgpt plan`: what a training run costs, before it is started. No Keras for a named device."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.table import Table

from kgpt.cli.environment import prepare_process
from kgpt.cli.options import StrictInt
from kgpt.config import Config, parse_overrides
from kgpt.formatting import NONE, count, duration, size

if TYPE_CHECKING:
    from kgpt.lab.accelerators import Accelerator
    from kgpt.lab.plan import MeshPlan, Plan

FLAGS = ("--devices", "--device", "--tokens", "--price-per-hour", "--measured", "--json")
Positive = Parameter(validator=Number(gt=0))
MAX_MESHES = 6  # rows of the table


def plan(
    config: str,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    devices: Annotated[StrictInt | None, Parameter(validator=Number(gte=1))] = None,
    device: str = "this",
    tokens: Annotated[float | None, Positive] = None,
    price_per_hour: Annotated[float | None, Parameter(validator=Number(gte=0))] = None,
    measured: Path | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Memory by part, what fits, expected speed, time and cost of a training run; nothing is run.

    Speed is that of a roofline with the peaks of the device's datasheet, or of this machine, or
    scaled from a measurement. Of the meshes of so many devices the fastest that fits is chosen.

    Parameters
    ----------
    config
        A preset or a YAML file; any key can be set, as with `kgpt train`.
    devices
        Plan for so many devices, on the best mesh; those of `distribute` when not given.
    device
        Such as h100, a100, l4 or tpu-v5e; `this` is the device of the backend on this machine,
        whose peaks are measured.
    tokens
        Tokens to train on, such as 10e9; those of train.max_steps when not given.
    price_per_hour
        Of one device, for the cost.
    measured
        A file with the output of `kgpt bench train --json` on the device: its speed is scaled by
        FLOPs in place of the roofline.
    json_
        Print one JSON object.
    """
    from kgpt.lab.measured import read_measurement
    from kgpt.lab.plan import flops_per_token, make_plan
    from kgpt.lab.planned_config import complete

    flags = parse_overrides(overrides, FLAGS)
    resolved, notes = complete(Config.load(config, flags))
    accelerator = _accelerator(device, resolved)
    measurement = None
    if measured is not None:
        precision, flops = resolved.train.precision, flops_per_token(resolved)
        measurement = read_measurement(measured, accelerator.name, precision, flops)
    made = make_plan(resolved, accelerator, devices, tokens, price_per_hour, measurement)
    if json_:
        print(json.dumps({"config": config, **_as_json(made), "notes": notes}))
    else:
        _show(Console(), config, resolved, made, notes)


def _accelerator(name: str, config: Config) -> Accelerator:
    from kgpt.lab.accelerators import find_accelerator

    if name not in ("this", "cpu"):
        return find_accelerator(name, config.train.precision)
    prepare_process()
    from kgpt.lab.this_machine import this_machine

    with Console(stderr=True).status("measuring the peaks of this machine"):
        return this_machine(config.train.precision)


def _as_json(made: Plan) -> dict[str, Any]:
    meshes = [_mesh_as_json(one) for one in made.meshes]
    return {**asdict(made), "best": meshes[0], "meshes": meshes}


def _mesh_as_json(one: MeshPlan) -> dict[str, Any]:
    memory = {**asdict(one.memory), "peak": one.memory.peak}
    return {**asdict(one), "mesh": one.mesh.model_dump(), "memory": memory}


def _show(console: Console, name: str, config: Config, made: Plan, notes: list[str]) -> None:
    train, best = config.train, made.best
    console.print(
        f"{name}: {count(made.parameters)} parameters, batch {train.batch_size} x "
        f"{train.grad_accumulation}, {train.precision}; "
        f"{made.num_devices} x {made.device.name}: {best.mesh}",
        highlight=False,
    )
    console.print(_memory_table(made))
    others = (f"{size(value)} {how}" for how, value in made.other_activations.items())
    for line in (f"activations: {', '.join(others)}", *_limits(made), *_speed(made), *notes):
        console.print(line, highlight=False)
    if len(made.meshes) > 1:
        console.print(_mesh_table(made))
    for reason in made.refused:
        console.print(f"not planned: {reason}", highlight=False)


def _memory_table(made: Plan) -> Table:
    table = Table("memory of a device", "")
    for part, value in asdict(made.best.memory).items():
        table.add_row(part, size(value))
    table.add_section()
    table.add_row("peak", size(made.best.memory.peak))
    if made.device.runtime:
        table.add_row("of the process", size(made.best.memory.peak + made.device.runtime))
    if made.usable_memory is not None:
        table.add_row("usable", size(made.usable_memory))
    table.columns[1].justify = "right"
    return table


def _limits(made: Plan) -> list[str]:
    lines = []
    if not made.best.fits:
        lines.append(
            "It does not fit: lower train.batch_size, set train.gradient_checkpointing or "
            "train.precision bfloat16, or plan for more devices."
        )
    if made.largest_batch is not None:
        longest = f"{made.longest_context:,}" if made.longest_context else NONE
        lines.append(
            f"fits: batch {made.largest_batch:,} at this length, or sequences of {longest} tokens "
            "at this batch size"
        )
    cache = f"generating: a KV cache of {size(made.cache_per_sequence)} a sequence"
    if made.generating_sequences is not None:
        cache += f"; {made.generating_sequences:,} fit beside the weights on one device"
    return [*lines, cache]


def _speed(made: Plan) -> list[str]:
    best = made.best
    cost = "" if made.cost is None else f", {made.cost:,.2f} at that price"
    return [
        f"speed: {best.tokens_per_s:,.0f} tokens/s, {1e3 * best.step_s:,.1f} ms a step, "
        f"{best.mfu:.1%} of peak; {made.basis}",
        f"run: {count(made.tokens)} tokens in {duration(made.time_s)}{cost}",
    ]


def _mesh_table(made: Plan) -> Table:
    table = Table("mesh", "peak memory", "ms/step", "tokens/s", "fits")
    for one in made.meshes[:MAX_MESHES]:
        table.add_row(
            str(one.mesh), size(one.memory.peak), f"{1e3 * one.step_s:,.1f}",
            f"{one.tokens_per_s:,.0f}", "yes" if one.fits else "no",
        )  # fmt: skip
    return table
