"""Time of a training step on one device, by the roofline: computation and memory traffic.

    time = FLOPs / (efficiency x peak) + bytes / bandwidth

The two are added: for one operation the larger counts (Williams et al., 2009,
https://doi.org/10.1145/1498765.1498785), but a step is matrix products, which leave the memory
idle, followed by norms, activation functions and softmax, which leave the arithmetic idle. No
Keras here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kgpt.config import Config
from kgpt.config.parameters import parameter_shapes
from kgpt.lab.accelerators import Accelerator
from kgpt.lab.memory_model import (
    TrainingMemory,
    causal_share,
    compute_itemsize,
    saved_values,
    sequence_length,
)
from kgpt.lab.trainable import trainable_shapes

# How often the numbers that the backward pass needs go through memory in a step: written, and read
# by the operation that follows; in the backward pass read, with their gradients written and read
# for the product with the weights, the product with the inputs, and the sum with the residual.
ACTIVATION_TRAFFIC = 7
LOGITS_TRAFFIC = 6  # written, read twice by the softmax; the gradient written and read twice
UPDATE_TRAFFIC = 2  # gradients, and in the update weights and moments, are read and written
RECOMPUTATION = 4 / 3  # gradient checkpointing repeats the forward pass, a third of the operations


@dataclass(frozen=True)
class ComputeTime:
    """Seconds on one device.

    Attributes:
        matmul: matrix products of a forward and backward pass.
        memory: what else it takes, which the bandwidth of the memory bounds.
        update: of the weights, once a step.
    """

    matmul: float
    memory: float
    update: float

    @property
    def forward_backward(self) -> float:
        return self.matmul + self.memory


def compute_time(config: Config, device: Accelerator, memory: TrainingMemory) -> ComputeTime:
    """The time of one device's part of a batch, without communication.

    Args:
        memory: of the same configuration.
    """
    model, mesh = config.model, config.distribute
    recomputes = config.train.gradient_checkpointing and device.recomputes
    repeated = RECOMPUTATION if recomputes else 1.0
    tokens = config.train.batch_size * sequence_length(config) / mesh.data
    flops = tokens * matmul_flops(config, device.flash_attention) / mesh.model
    itemsize = compute_itemsize(config, device)
    values = saved_values(config, device.flash_attention) * model.num_layers
    logits = model.known_vocab_size / mesh.model
    traffic = tokens * itemsize * (
        ACTIVATION_TRAFFIC * values * repeated + LOGITS_TRAFFIC * logits
    )  # fmt: skip
    traffic += UPDATE_TRAFFIC * memory.gradients
    update = UPDATE_TRAFFIC * (memory.weights + memory.optimizer)
    return ComputeTime(
        matmul=flops * repeated / (device.efficiency * device.peak_flops),
        memory=traffic / device.bandwidth,
        update=update / device.bandwidth,
    )


def matmul_flops(config: Config, flash_attention: bool = False) -> float:
    """Operations of matrix products to train on one token.

    4 per weight that takes part in a product, for the outputs and for the gradient of the inputs,
    and 2 more where the weight is trained; 12 N H T per block for attention, of which causal
    implementations skip a part. The MFU of the literature counts all of it, as
    `ModelConfig.flops_per_token` does.
    """
    model, length = config.model, sequence_length(config)
    share = 1.0 if model.dropout else 0.5 if flash_attention else causal_share(length)
    attention = 12 * model.num_layers * model.num_heads * model.head_dim * length * share
    used = dict(parameter_shapes(model))
    lookups = {"position_embedding"} | (set() if model.tie_embeddings else {"token_embedding"})
    trained = {path: shape for path, shape in trainable_shapes(config) if path not in lookups}
    weights = {path: shape for path, shape in used.items() if path not in lookups}
    added = {path: shape for path, shape in trained.items() if path not in used}
    return 4 * (_count(weights) + _count(added)) + 2 * _count(trained) + attention


def _count(shapes: dict[str, tuple[int, ...]]) -> int:
    """How many parameters they are."""
    return sum(math.prod(shape) for shape in shapes.values())
