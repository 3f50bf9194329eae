"""Time of the collectives of a training step, by their bytes and the bandwidth of the network.

Ring algorithms (Patarasuk & Yuan, 2009, https://doi.org/10.1016/j.jpdc.2008.09.002): of B bytes on
n devices, an all-gather or a reduce-scatter sends (n - 1) / n B from each device, an all-reduce
twice that. Over several nodes each of the k devices of a node exchanges its 1 / k with the other
nodes. Latency is not counted. No Keras here.
"""

from __future__ import annotations

from dataclasses import dataclass

from kgpt.config import Config, compute_dtype
from kgpt.config.parameters import parameter_shapes
from kgpt.lab.accelerators import Interconnect
from kgpt.lab.memory_model import sequence_length, sharded_bytes
from kgpt.lab.trainable import trainable_shapes


@dataclass(frozen=True)
class CommunicationTime:
    """Seconds of the collectives of a forward and backward pass.

    Attributes:
        data: along the data axis: gradients, and with FSDP the weights; XLA runs them beside the
            backward pass.
        model: along the model axis, which the next operation waits for.
    """

    data: float = 0.0
    model: float = 0.0


def communication_time(config: Config, network: Interconnect) -> CommunicationTime:
    """The collectives of one pass over a batch, on the mesh of `config.distribute`.

    - Data parallelism: an all-reduce of the gradients, float32.
    - FSDP (Rajbhandari et al., 2020): an all-gather of the weights, float32, in the forward and in
      the backward pass, and a reduce-scatter of the gradients.
    - Tensor parallelism (Shoeybi et al., 2019): four all-reduces of the residual stream (tokens, D)
      in each block, and one each for the embedding and the head, in the compute dtype.
    """
    mesh, model = config.distribute, config.model
    whole = mesh.model_copy(update={"fsdp": False})
    gradients = sharded_bytes(trainable_shapes(config), whole)
    within = max(1, network.node_size // mesh.model)  # neighbours along the data axis in a node
    data = gather_time(gradients, mesh.data, within, network)
    if mesh.fsdp:
        weights = sharded_bytes(parameter_shapes(model), whole)
        data += 2 * gather_time(weights, mesh.data, within, network)
    else:
        data *= 2
    itemsize = 4 if compute_dtype(config.train.precision) == "float32" else 2
    tokens = config.train.batch_size * sequence_length(config) / mesh.data
    stream = tokens * model.hidden_dim * itemsize
    reduced = (4 * model.num_layers + 2) * 2
    return CommunicationTime(
        data, reduced * gather_time(stream, mesh.model, network.node_size, network)
    )


def gather_time(size: float, num_devices: int, within: int, network: Interconnect) -> float:
    """Seconds of an all-gather or reduce-scatter of `size` bytes.

    Args:
        within: devices of the ring that are in one node.

    >>> eight_h100 = Interconnect(link_gb=450, network_gb=50)
    >>> round(1e3 * gather_time(450e9, 8, 8, eight_h100))  # 7/8 of 450 GB at 450 GB/s
    875
    """
    local = min(num_devices, within)
    nodes = num_devices / local
    time = (local - 1) / local * size / (network.link_gb * 1e9)
    return time + (nodes - 1) / nodes * size / local / (network.network_gb * 1e9)


def exposed(communication: CommunicationTime, compute: float) -> float:
    """Seconds that communication adds to a step whose computation takes `compute` seconds.

    What goes along the data axis is hidden behind the backward pass, two thirds of the
    computation, as far as it is shorter.
    """
    return communication.model + max(0.0, communication.data - 2 / 3 * compute)
