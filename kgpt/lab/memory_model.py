"""Memory of a training step and of generation on one device, counted from tensor shapes.

The counts of saved activations follow the code of the layers, as Korthikanti et al. (2022,
https://arxiv.org/abs/2205.05198) do for Megatron-LM; they were checked against the buffers that
XLA assigns to the compiled step (`python -m benchmarks.plan`). All sizes are bytes. No Keras here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from kgpt.config import Config, DistributeConfig, ModelConfig, compute_dtype, default_loss_chunk
from kgpt.config.distribute import sharded_axes
from kgpt.config.parameters import parameter_shapes
from kgpt.lab.accelerators import Accelerator
from kgpt.lab.trainable import trainable_shapes

FLOAT32 = 4
ATTENTION_CHUNK = 128  # queries whose scores `kgpt.backend.attention` computes at a time
# Moments that an optimizer keeps of a weight; Muon those of Adam for tables and vectors.
MOMENTS = {"adamw": 2, "lion": 1, "muon": 1}
MOMENTS_OF_TABLES = {"adamw": 2, "lion": 1, "muon": 2}
SAVED_BY_ACTIVATION = {"gelu_tanh": 3, "gelu": 4, "swiglu": 5}  # in intermediate_dim
FROZEN_BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5625}  # of matrices
FROZEN_TABLE_BYTES = FROZEN_BYTES | {"int4": 1.0}  # of embeddings and head
Shape = tuple[str, tuple[int, ...]]  # path and shape of a parameter
Shapes = Iterable[Shape]


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of each part of a training step on one device.

    Attributes:
        weights: float32, and copies in half precision where those are computed with.
        optimizer: moments, the average of the weights, and accumulated gradients.
        gradients: of all trainable weights.
        activations: saved for the backward pass.
        logits: of one chunk of the loss and their gradient.
        working: of the layer that is computed, and of the hidden states.
    """

    weights: int
    optimizer: int
    gradients: int
    activations: int
    logits: int
    working: int

    @property
    def peak(self) -> int:
        """The most bytes at a time.

        Activations are freed while gradients come into being. At the loss all activations and the
        logits are there, with about half of the gradients, since XLA begins some early; at the end
        of the backward pass all gradients, and one layer's activations.
        """
        at_loss = self.activations + self.logits + self.gradients // 2
        return self.weights + self.optimizer + self.working + max(at_loss, self.gradients)


def training_memory(config: Config, device: Accelerator) -> TrainingMemory:
    """The memory of one device of the mesh of `config.distribute` while it trains.

    Args:
        config: with a known vocabulary; `train.batch_size` is that of the whole mesh.
    """
    model, train, mesh = config.model, config.train, config.distribute
    tokens = math.ceil(train.batch_size / mesh.data) * sequence_length(config)
    itemsize = compute_itemsize(config, device)
    layer = tokens * itemsize * saved_values(config, device.flash_attention)
    if train.gradient_checkpointing and device.recomputes:
        activations = tokens * itemsize * model.hidden_dim * model.num_layers + layer
    else:
        activations = layer * model.num_layers
    trained, weights = [*trainable_shapes(config)], [*parameter_shapes(model)]
    gradients = sharded_bytes(trained, mesh)
    return TrainingMemory(
        weights=_weight_bytes(config, weights, trained, itemsize),
        optimizer=_optimizer_bytes(config, trained),
        gradients=gradients,
        activations=round(activations),
        logits=_logit_bytes(config, tokens, itemsize, device.loss_memory),
        working=round(2 * tokens * itemsize * model.hidden_dim),
    )


def saved_values(config: Config, flash_attention: bool = False) -> float:
    """Numbers per token and block that are saved for the backward pass, on one device.

    With widths D, F, heads N and K of width H, and T tokens in a sequence:

    - 5 D: the inputs and outputs of two norms, and what LayerNorm centers.
    - 2 (N + K) H: queries, keys, values and the output of attention; 4 (N + K) H more where queries
      and keys are normalized.
    - 3 F of GPT-2's GELU: input, sigmoid and output; 4 F of the exact one; 5 F of SwiGLU: the gate
      and the value, both once more where they are split, and their product.
    - 3 N T of attention weights: scores, exponentials and softmax, of the causal chunks that are
      computed; 5 N T with dropout, which computes all of them and keeps a mask. Flash attention
      (Dao et al., 2022) keeps one number a head.

    Tensor parallelism divides heads and F, not D.
    """
    model, length = config.model, sequence_length(config)
    heads = (6 if model.qk_norm else 2) * (model.num_heads + model.num_kv_heads) * model.head_dim
    divided: float = heads + SAVED_BY_ACTIVATION[model.activation] * model.intermediate_dim
    if model.dropout:
        divided += 5 * model.num_heads * length
    elif flash_attention:
        divided += model.num_heads
    else:
        divided += 3 * model.num_heads * length * causal_share(length)
    return 5 * model.hidden_dim + divided / config.distribute.model


def causal_share(length: int) -> float:
    """The share of the (T, T) scores that chunked causal attention computes.

    >>> causal_share(128), causal_share(256), causal_share(100)
    (1.0, 0.75, 1.0)
    """
    chunks, rest = divmod(length, ATTENTION_CHUNK)
    return 1.0 if rest else (chunks + 1) / (2 * chunks)


def sharded_bytes(shapes: Shapes, mesh: DistributeConfig, itemsize: float = FLOAT32) -> int:
    """Bytes of one device's part of the parameters."""
    sizes = mesh.data, mesh.model, mesh.fsdp
    parts = (part_size(path.rpartition("/")[2], shape, *sizes) for path, shape in shapes)
    return round(sum(parts) * itemsize)


@lru_cache(maxsize=10_000)
def part_size(name: str, shape: tuple[int, ...], data: int, model: int, fsdp: bool) -> float:
    """Numbers of the part of a parameter that one device of a data x model mesh holds."""
    mesh = DistributeConfig(data=data, model=model, fsdp=fsdp)
    sizes = {"data": data, "model": model, None: 1}
    return math.prod(shape) / math.prod(sizes[axis] for axis in sharded_axes(name, shape, mesh))


def cache_memory(model: ModelConfig, batch_size: int, itemsize: int = FLOAT32) -> int:
    """KV caches of `batch_size` sequences of the whole context while text is generated."""
    tokens = min(model.max_length, model.sliding_window or model.max_length)
    return batch_size * model.cache_bytes(tokens, itemsize)


def sequence_length(config: Config) -> int:
    """T, tokens in a training sequence."""
    return config.train.sequence_length or config.model.max_length


def compute_itemsize(config: Config, device: Accelerator) -> int:
    """Bytes of an activation."""
    half = compute_dtype(config.train.precision) != "float32"
    return device.half_itemsize if half else FLOAT32


def _weight_bytes(config: Config, weights: list[Shape], trained: Shapes, itemsize: int) -> int:
    """The model's weights and adapters, and what is made of them while they are computed with.

    That are copies in half precision, and with FSDP the whole weights of one block at a time.
    """
    mesh, adapters = config.distribute, config.finetune.has_adapters
    precision = config.finetune.base_precision if adapters else "float32"
    size = FROZEN_TABLE_BYTES[precision]
    matrices = [(path, shape) for path, shape in weights if _is_block_matrix(path, shape)]
    tables = [(path, shape) for path, shape in weights if not _is_block_matrix(path, shape)]
    stored = sharded_bytes(matrices, mesh, FROZEN_BYTES[precision])
    stored += sharded_bytes(tables, mesh, size) + (sharded_bytes(trained, mesh) if adapters else 0)
    itemsize = min(itemsize, int(size))
    if itemsize == size and not mesh.fsdp:
        return stored
    whole = sharded_bytes(weights, mesh.model_copy(update={"fsdp": False}), itemsize)
    return stored + (whole // config.model.num_layers if mesh.fsdp else whole)


def _optimizer_bytes(config: Config, trained: list[Shape]) -> int:
    train, mesh = config.train, config.distribute
    matrices = [(path, shape) for path, shape in trained if _is_block_matrix(path, shape)]
    others = [(path, shape) for path, shape in trained if not _is_block_matrix(path, shape)]
    copies = bool(train.ema_decay) + (train.grad_accumulation > 1)
    total = (MOMENTS[train.optimizer] + copies) * sharded_bytes(matrices, mesh)
    return total + (MOMENTS_OF_TABLES[train.optimizer] + copies) * sharded_bytes(others, mesh)


def _is_block_matrix(path: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and path.startswith("block_")


def _logit_bytes(config: Config, tokens: int, itemsize: int, memory: int | None) -> int:
    """Logits of one chunk and their gradient, (chunk, V), each in the compute dtype."""
    train, vocab_size = config.train, config.model.known_vocab_size
    chunk = train.loss_chunk or default_loss_chunk(vocab_size, train.precision, memory)
    return 2 * min(chunk, tokens) * vocab_size * itemsize // config.distribute.model
