"""Many devices on JAX: a mesh of `keras.distribution`, and arrays sharded over it.

The variables of a model that is made after `distribute` are sharded as `kgpt.config.distribute`
says; XLA divides the computation accordingly (Xu et al., 2021: GSPMD) and inserts the collectives.
The mesh spans the devices of all processes of a group.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import keras
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from keras.distribution import DeviceMesh, LayoutMap, ModelParallel, TensorLayout

from kgpt.backend import keras_internals
from kgpt.config.distribute import (
    DATA,
    MODEL,
    SEQUENCE_STREAM,
    STREAM,
    Axes,
    DistributeConfig,
    sharded_axes,
)
from kgpt.errors import UsageError

Tensor = Any
_mesh: jax.sharding.Mesh | None = None  # None on one device


class Distribution(ModelParallel):
    """Shards each variable by its path and shape, and each batch along `data`."""

    def __init__(self, config: DistributeConfig, devices: list[str]) -> None:
        mesh = DeviceMesh((config.data, config.model), [DATA, MODEL], devices)
        super().__init__(layout_map=LayoutMap(mesh), batch_dim_name=DATA, auto_shard_dataset=False)
        self.config = config

    def get_variable_layout(self, variable: keras.Variable) -> TensorLayout:
        if given := keras_internals.layout(variable):  # of the weight that it is the momentum of
            return given
        axes = sharded_axes(variable.path, tuple(variable.shape), self.config)
        return TensorLayout(axes, self.device_mesh)


def distribute(config: DistributeConfig) -> None:
    """Spread the models that are made from now on over a mesh of devices; or over one device.

    Raises `UsageError` if there are not so many devices, or not all processes have a part of them.
    """
    global _mesh
    if config.num_devices == 1:
        keras.distribution.set_distribution(None)
        _mesh = None
        return
    devices = keras.distribution.list_devices()
    _check_devices(config, len(devices))
    distribution = Distribution(config, devices[: config.num_devices])
    keras.distribution.set_distribution(distribution)
    _mesh = distribution.device_mesh.backend_mesh


@contextlib.contextmanager
def suspended() -> Iterator[None]:
    """A block in which this process computes on its own, as on one device."""
    global _mesh
    mesh, distribution = _mesh, keras.distribution.distribution()
    _mesh = None
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        _mesh = mesh
        keras.distribution.set_distribution(distribution)


def _check_devices(config: DistributeConfig, available: int) -> None:
    needed, wanted = config.num_devices, f"distribute.data {config.data}"
    wanted += f" times distribute.model {config.model}" if config.model > 1 else ""
    if needed > available:
        raise UsageError(
            f"{wanted} takes {needed} devices, but JAX has {available}; lower them, or on a CPU "
            f"set XLA_FLAGS=--xla_force_host_platform_device_count={needed}."
        )
    if jax.process_count() > 1 and needed < available:
        raise UsageError(
            f"{wanted} takes {needed} devices, but the {jax.process_count()} processes have "
            f"{available}; use them all."
        )


def batch_shards() -> int:
    """Among how many devices a batch is divided: `distribute.data`."""
    return 1 if _mesh is None else int(_mesh.shape[DATA])


def constrain(x: Tensor, axes: Axes) -> Tensor:
    """x, sharded along these axes of the mesh: one or None for each of its dimensions.

    A dimension that cannot be divided is not sharded. On one device it is x.
    """
    if _mesh is None:
        return x
    pairs = zip(axes, x.shape, strict=True)
    kept = [axis if axis and size % _mesh.shape[axis] == 0 else None for axis, size in pairs]
    return jax.lax.with_sharding_constraint(x, _sharding(kept))


def constrain_stream(x: Tensor) -> Tensor:
    """The residual stream x (B, T, D) between two blocks, sharded."""
    distribution = keras.distribution.distribution()
    if _mesh is None or not isinstance(distribution, Distribution):
        return x
    return constrain(x, SEQUENCE_STREAM if distribution.config.sequence else STREAM)


def gather_parameter(variable: keras.Variable) -> Tensor:
    """A parameter whole along `data`, for the layer that uses it; its gradient is sharded again.

    It is cast to the compute dtype before it is gathered. Without FSDP it is the variable.
    """
    if not _is_sharded_along_data(variable):
        return variable
    axes = keras_internals.layout(variable).axes
    whole = [None if axis == DATA else axis for axis in axes]
    return _gathered(keras.ops.convert_to_tensor(variable), _sharding(whole), _sharding(axes))


def with_gathered(
    function: Callable[..., Tensor], variable: keras.Variable, *inputs: Tensor
) -> Tensor:
    """`function(parameter, *inputs)`, the parameter gathered for it, and once more backwards.

    Between the two passes a device keeps its shard alone.
    """
    if not _is_sharded_along_data(variable):
        return function(variable, *inputs)
    axes = keras_internals.layout(variable).axes
    whole = _sharding([None if axis == DATA else axis for axis in axes])

    def compute(shard: Tensor, *inputs: Tensor) -> Tensor:
        return function(_gathered(shard, whole, _sharding(axes)), *inputs)

    tensors = [keras.ops.convert_to_tensor(x) for x in (variable, *inputs)]
    return jax.checkpoint(compute)(*tensors)


def _is_sharded_along_data(variable: keras.Variable) -> bool:
    return _mesh is not None and DATA in keras_internals.layout(variable).axes


def _sharding(axes: Sequence[str | None]) -> NamedSharding:
    assert _mesh is not None
    return NamedSharding(_mesh, PartitionSpec(*axes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(x: Tensor, whole: NamedSharding, sharded: NamedSharding) -> Tensor:
    return jax.lax.with_sharding_constraint(x, whole)


def _gathered_forward(x: Tensor, whole: NamedSharding, sharded: NamedSharding) -> Any:
    return _gathered(x, whole, sharded), None


def _gathered_backward(
    whole: NamedSharding, sharded: NamedSharding, _: None, upstream: Tensor
) -> tuple[Tensor]:
    return (jax.lax.with_sharding_constraint(upstream, sharded),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def place_shards(read: Callable[[Any], np.ndarray], shape: tuple[int, ...], layout: Any) -> Tensor:
    """An array of which each device gets its own shard alone, from host memory.

    Args:
        read: the values at an index, a tuple of slices.
        layout: what Keras gives to an initializer; only its `spec` is used.
    """
    assert _mesh is not None, "Keras gives a layout to variables of a distribution alone"
    return jax.make_array_from_callback(shape, NamedSharding(_mesh, layout.spec), read)


def assign_shards(variable: keras.Variable, value: np.ndarray) -> None:
    """Assign an array of host memory, of which each device gets its own shard alone."""
    if _mesh is None:
        variable.assign(value)
        return
    value = np.asarray(value, dtype=variable.dtype)
    sharding = variable.value.sharding
    variable.assign(jax.make_array_from_callback(value.shape, sharding, value.__getitem__))


def process_index() -> int:
    """The number of this process in its group."""
    return jax.process_index()


def process_count() -> int:
    """How many processes the group has; 1 without a group."""
    return jax.process_count()


def is_primary() -> bool:
    """Is this the process that writes the run directory?"""
    return jax.process_index() == 0


def gather(value: Tensor) -> Tensor:
    """An array or variable that is sharded over processes as an array that each has whole.

    All processes must call it, in the same order. Others are returned as they are.
    """
    value = value.value if isinstance(value, keras.Variable) else value
    if not isinstance(value, jax.Array) or value.is_fully_addressable or value.is_fully_replicated:
        return value
    whole = NamedSharding(value.sharding.mesh, PartitionSpec())
    return jax.jit(lambda x: x, out_shardings=whole)(value)
