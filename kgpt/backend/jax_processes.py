"""Many processes on JAX: `jax.distributed`, with gloo between CPUs and NCCL between GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import keras

from kgpt.backend import jax_distribution, keras_internals
from kgpt.errors import UsageError
from kgpt.launch.process_group import ProcessGroup
from kgpt.launch.store import ADVICE, KeyValueStore, ProcessLost

# The watchdog of `kgpt.launch` notices a lost process first, and says so in a sentence; JAX's own
# heartbeat ends this process where that cannot.
HEARTBEAT_TIMEOUT_S = 25
JOIN_TIMEOUT_S = 300
# In the errors of a step whose other processes are gone.
SIGNS_OF_A_LOST_PROCESS = ("gloo", "coordination service", "nccl", "connection reset")
Result = TypeVar("Result")
_JaxRuntimeError: type[Exception] = jax.errors.JaxRuntimeError


class Store(KeyValueStore):
    """The key-value store of JAX's coordinator."""

    def __init__(self, client: Any, coordinator: str):
        self._client, self._coordinator = client, coordinator

    def set(self, key: str, value: str) -> None:
        self._call(self._client.key_value_set, key, value, True)

    def get(self, key: str, timeout_s: float) -> str | None:
        if not timeout_s:
            return self._call(self._client.key_value_try_get, key)
        return self._call(self._client.blocking_key_value_get, key, int(timeout_s * 1000))

    def entries(self, prefix: str) -> dict[str, str]:
        return dict(self._call(self._client.key_value_dir_get, prefix) or ())

    def delete(self, key: str) -> None:
        self._call(self._client.key_value_delete, key)

    def _call(self, function: Any, *args: Any) -> Any:
        """None if there is no such key, or not in time."""
        try:
            return function(*args)
        except _JaxRuntimeError as error:
            if str(error).startswith(("NOT_FOUND", "DEADLINE_EXCEEDED")):
                return None
            raise ProcessLost(
                f"Process 0 at {self._coordinator} does not answer; {ADVICE}."
            ) from error


def join(group: ProcessGroup) -> Store:
    """Meet the other processes; `jax.devices()` are those of all from then on.

    Called before JAX computes anything.

    Raises:
        UsageError: the others did not come in time.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM
    try:
        jax.distributed.initialize(
            group.coordinator,
            group.num_processes,
            group.process_id,
            local_device_ids=group.local_device_ids,
            cluster_detection_method="deactivate",
            initialization_timeout=JOIN_TIMEOUT_S,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
        )
    except _JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"Process {group.process_id} cannot join the {group.num_processes} processes that meet "
            f"at {group.coordinator} ({reason}); start them all, each with its own rank."
        ) from None
    return Store(_client(), group.coordinator)


def _client() -> Any:
    """The client of the coordinator's service, which JAX has no public name for."""
    from jax._src import distributed

    return distributed.global_state.client


def leave() -> None:
    """Wait for the others, and end the group."""
    jax.distributed.shutdown()


def is_lost_process(error: BaseException) -> bool:
    """Whether a step failed because another process is gone."""
    text = str(error).lower()
    return any(sign in text for sign in SIGNS_OF_A_LOST_PROCESS)


def device_count() -> int:
    """Devices of all processes."""
    return jax.device_count()


def batch_part() -> tuple[int, int]:
    """Which part of a batch this process makes, and into how many it is divided.

    Processes whose devices share layers (`distribute.model`) make the same part.
    """
    distribution = keras.distribution.distribution()
    if jax.process_count() == 1 or distribution is None:
        return 0, 1
    devices = distribution.device_mesh.backend_mesh.devices  # (data, model)
    mine = [
        row
        for row, along_model in enumerate(devices)
        if any(device.process_index == jax.process_index() for device in along_model)
    ]
    return mine[0] // len(mine), len(devices) // len(mine)


def computed_by_one(model: keras.Model, compute: Callable[[keras.Model], Result]) -> Result | None:
    """What `compute(model)` returns, in process 0; None in the others, which wait.

    Its weights are whole on one device meanwhile. All processes must call it. In one process it is
    `compute(model)`.
    """
    if jax.process_count() == 1:
        return compute(model)
    sharded = [variable.value for variable in model.variables]
    with jax_distribution.suspended():
        for variable, value in zip(model.variables, sharded, strict=True):
            whole = jax_distribution.gather(value)
            keras_internals.store(variable, whole.addressable_data(0))
        try:
            return compute(model) if jax.process_index() == 0 else None
        finally:
            for variable, value in zip(model.variables, sharded, strict=True):
                keras_internals.store(variable, value)
