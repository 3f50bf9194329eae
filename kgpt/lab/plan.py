"""`kgpt plan`: memory, speed, time and cost of a training run, before it is started.

Everything is computed from shapes and from the figures of the device; nothing is built or run. The
parts are in memory_model.py, roofline.py and communication.py. No Keras here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from kgpt.config import Config, DistributeConfig, compute_dtype
from kgpt.config.parameters import parameter_shapes
from kgpt.errors import UsageError
from kgpt.lab.accelerators import Accelerator
from kgpt.lab.communication import CommunicationTime, communication_time, exposed
from kgpt.lab.measured import Measurement
from kgpt.lab.memory_model import (
    TrainingMemory,
    cache_memory,
    sequence_length,
    sharded_bytes,
    training_memory,
)
from kgpt.lab.roofline import ComputeTime, compute_time

USABLE = 0.9  # of a device's memory; the rest is the driver's, the programs' and fragmentation
MAX_BATCH = 1 << 20  # sequences
MAX_CONTEXT, CONTEXT_STEP = 1 << 20, 128  # tokens


@dataclass(frozen=True)
class MeshPlan:
    """A configuration on one mesh: memory of a device, and times of an update."""

    mesh: DistributeConfig
    memory: TrainingMemory
    fits: bool
    compute: ComputeTime
    communication: CommunicationTime
    step_s: float
    tokens_per_s: float
    mfu: float


@dataclass(frozen=True)
class Plan:
    """What a run costs on some devices.

    Attributes:
        best: the fastest mesh that fits; if none does, the one that takes the least memory.
        meshes: all that the configuration can be divided among, the best first.
        usable_memory: bytes of a device; None if its memory is not known.
        largest_batch: sequences in a forward pass of the best mesh; None without a known memory.
        longest_context: tokens, at the batch size of the configuration.
        cache_per_sequence: bytes of the KV cache of a whole context while text is generated.
        generating_sequences: how many of those fit beside the weights on one device.
        other_activations: bytes of the activations with other settings, by what is changed.
        tokens: of the whole run.
        time_s: of the whole run. cost: None without a price.
        basis: where the speed comes from.
        notes: what was assumed.
        refused: why the configuration cannot be divided among other meshes.
    """

    device: Accelerator
    num_devices: int
    parameters: int
    best: MeshPlan
    meshes: Sequence[MeshPlan]
    usable_memory: int | None
    largest_batch: int | None
    longest_context: int | None
    cache_per_sequence: int
    generating_sequences: int | None
    other_activations: dict[str, int]
    tokens: int
    time_s: float
    cost: float | None
    basis: str
    notes: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def make_plan(
    config: Config,
    device: Accelerator,
    num_devices: int | None = None,
    tokens: float | None = None,
    price_per_hour: float | None = None,
    measurement: Measurement | None = None,
) -> Plan:
    """The plan of `config`, whose vocabulary is known.

    Args:
        num_devices: chooses the best mesh of so many; None keeps that of `config.distribute`.
        tokens: of the whole run; those of `train.max_steps` when not given.
        price_per_hour: of one device.
        measurement: the speed of a device that was measured, in place of the roofline's.

    Raises:
        UsageError: the batch or the model cannot be divided among the devices.
    """
    meshes, refused = plan_meshes(config, device, num_devices, measurement)
    best = meshes[0]
    chosen = config.model_copy(update={"distribute": best.mesh})
    train = config.train
    per_step = train.batch_size * train.grad_accumulation * sequence_length(config)
    total = round(tokens) if tokens else train.max_steps * per_step
    time_s = total / best.tokens_per_s
    count = best.mesh.num_devices
    return Plan(
        device=device,
        num_devices=count,
        parameters=config.model.num_parameters(),
        best=best,
        meshes=meshes,
        usable_memory=usable_memory(device),
        largest_batch=largest_batch(chosen, device),
        longest_context=longest_context(chosen, device),
        cache_per_sequence=cache_memory(config.model, 1, _inference_itemsize(config)),
        generating_sequences=_generating_sequences(config, device),
        other_activations=other_activations(chosen, device),
        tokens=total,
        time_s=time_s,
        cost=None if price_per_hour is None else price_per_hour * count * time_s / 3600,
        basis=measurement.describe() if measurement else _roofline_basis(device),
        refused=refused,
    )


def plan_meshes(
    config: Config,
    device: Accelerator,
    num_devices: int | None,
    measurement: Measurement | None = None,
) -> tuple[list[MeshPlan], list[str]]:
    """The meshes that `config` can be divided among, those that fit first, then the fastest.

    And why it cannot be divided among the others, a sentence each.

    Raises:
        UsageError: there is none.
    """
    meshes = [config.distribute] if num_devices is None else list(possible_meshes(num_devices))
    planned: list[MeshPlan] = []
    refused: dict[str, UsageError] = {}
    for mesh in meshes:
        try:
            mesh.check_batch(config.train.batch_size)
            mesh.check_model(config.model)
        except UsageError as error:
            refused.setdefault(str(error), error)
            continue
        planned.append(plan_mesh(config, device, mesh, measurement))
    if not planned:
        raise next(iter(refused.values()))  # data parallelism, which is tried first
    planned.sort(key=lambda one: (False, one.step_s) if one.fits else (True, one.memory.peak))
    return planned, list(refused)


def possible_meshes(num_devices: int) -> Iterator[DistributeConfig]:
    """Every data x model mesh of so many devices, without and with FSDP."""
    for model in range(1, num_devices + 1):
        data, rest = divmod(num_devices, model)
        if not rest:
            yield DistributeConfig(data=data, model=model)
            if data > 1:
                yield DistributeConfig(data=data, model=model, fsdp=True)


def plan_mesh(
    config: Config,
    device: Accelerator,
    mesh: DistributeConfig,
    measurement: Measurement | None = None,
) -> MeshPlan:
    """Memory and times of `config` on one mesh."""
    config = config.model_copy(update={"distribute": mesh})
    train = config.train
    memory = training_memory(config, device)
    compute = compute_time(config, device, memory)
    tokens, flops = train.batch_size * sequence_length(config), flops_per_token(config)
    seconds, update = compute.forward_backward, compute.update
    if measurement is not None:  # updates and all
        seconds, update = tokens * flops / measurement.flops_per_s / mesh.num_devices, 0.0
    communication = communication_time(config, device.interconnect)
    seconds += exposed(communication, seconds)
    step_s = seconds * train.grad_accumulation + update
    tokens_per_s = tokens * train.grad_accumulation / step_s
    usable = usable_memory(device)
    return MeshPlan(
        mesh=mesh,
        memory=memory,
        fits=usable is None or memory.peak <= usable,
        compute=compute,
        communication=communication,
        step_s=step_s,
        tokens_per_s=tokens_per_s,
        mfu=tokens_per_s * flops / (mesh.num_devices * device.peak_flops),
    )


def flops_per_token(config: Config) -> int:
    """Operations for one token as the literature counts them, for the MFU."""
    return config.model.flops_per_token(sequence_length(config))


def usable_memory(device: Accelerator) -> int | None:
    """Bytes for a model and its training; None if the device's memory is not known."""
    return None if device.memory is None else round(USABLE * device.memory) - device.runtime


def largest_batch(config: Config, device: Accelerator) -> int | None:
    """The most sequences of a forward pass that fit on the mesh of `config.distribute`."""
    data = config.distribute.data

    def resized(size: int) -> Config:
        return _with_train(config, batch_size=size * data)

    found = _largest(resized, device, MAX_BATCH // data)
    return None if found is None else found * data


def longest_context(config: Config, device: Accelerator) -> int | None:
    """The longest sequence, in tokens, of which a batch of the same size fits."""

    def lengthened(size: int) -> Config:
        longer = config.model.model_copy(update={"max_length": size * CONTEXT_STEP})
        made = _with_train(config, sequence_length=size * CONTEXT_STEP)
        return made.model_copy(update={"model": longer})

    found = _largest(lengthened, device, MAX_CONTEXT // CONTEXT_STEP)
    return None if found is None else found * CONTEXT_STEP


def _largest(make: Callable[[int], Config], device: Accelerator, limit: int) -> int | None:
    """The largest size up to `limit` whose configuration fits, by bisection; 0 for none."""
    usable = usable_memory(device)
    if usable is None:
        return None
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        fits = training_memory(make(middle), device).peak <= usable
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def other_activations(config: Config, device: Accelerator) -> dict[str, int]:
    """Activations with gradient checkpointing changed, and with or without flash attention."""
    recomputes, flash = config.train.gradient_checkpointing, device.flash_attention
    changed = _with_train(config, gradient_checkpointing=not recomputes)
    memory = training_memory(changed, device)
    other = training_memory(config, replace(device, flash_attention=not flash))
    return {
        f"{'without' if recomputes else 'with'} gradient checkpointing": memory.activations,
        f"{'without' if flash else 'with'} flash attention": other.activations,
    }


def _with_train(config: Config, **changes: int) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def _inference_itemsize(config: Config) -> int:
    return 4 if compute_dtype(config.train.precision) == "float32" else 2


def _generating_sequences(config: Config, device: Accelerator) -> int | None:
    """Sequences of the whole context whose KV caches fit beside the weights on one device."""
    usable, itemsize = usable_memory(device), _inference_itemsize(config)
    if usable is None:
        return None
    weights = sharded_bytes(parameter_shapes(config.model), DistributeConfig(), itemsize)
    return max(0, usable - weights) // cache_memory(config.model, 1, itemsize)


def _roofline_basis(device: Accelerator) -> str:
    peak = f"{device.peak_flops / 1e12:,.2f} TFLOP/s at {device.efficiency:.0%}"
    return f"the roofline of {device.name}: {peak}, {device.bandwidth / 1e9:,.0f} GB/s"
