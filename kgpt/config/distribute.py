"""How a run is spread over several devices: `DistributeConfig`, and how each parameter is sharded.

The devices are a mesh of `data` x `model`. Along `data` the batch is split, along `model` the heads
of attention, the feed-forward layers and the vocabulary (Shoeybi et al., 2019); with `fsdp`
parameters and optimizer state are sharded along `data`, too (Rajbhandari et al., 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Self

from pydantic import Field, model_validator

from kgpt.config.model import ModelConfig
from kgpt.config.parameters import parameter_shapes
from kgpt.config.section import Section
from kgpt.errors import UsageError

DATA, MODEL = "data", "model"  # the axes of the mesh
Axes = tuple[str | None, ...]  # for each dimension of a tensor, the axis it is sharded along
STREAM: Axes = (DATA, None, None)  # the residual stream (B, T, D)
SEQUENCE_STREAM: Axes = (DATA, MODEL, None)  # likewise, with sequence parallelism
HEADS: Axes = (DATA, None, MODEL, None)  # queries, keys and values (B, T, N, H)
HIDDEN: Axes = (DATA, None, MODEL)  # within an MLP (B, T, F)

# The parts of a block whose outputs are divided among devices, and those whose inputs are.
_BY_OUTPUT = {"qkv", "up", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "c_attn", "c_fc"}
_BY_INPUT = {"output", "down", "o_proj", "down_proj", "c_proj"}
_TABLES = {"token_embedding", "head"}
# By the end of a variable's name, its dimension of inputs and that of outputs.
_KINDS: dict[str, tuple[int | None, int | None]] = {
    "_bias": (None, 0),
    "_lora_a": (0, None),
    "_lora_b": (None, 1),
    "_lora_magnitude": (None, 0),
    "_adapter_down": (None, None),
    "_adapter_up": (None, None),
    "_transposed": (1, 0),
    "_group_scale": (1, 0),
    "_scale": (None, 0),
    "_q": (1, 0),
    "": (0, 1),
}


class DistributeConfig(Section):
    """One process or several, on many devices."""

    data: int = Field(
        1, ge=1, description="Devices that each compute a part of every batch: data parallelism."
    )
    model: int = Field(
        1,
        ge=1,
        description="Devices that share each layer: the heads, the feed-forward layers and the "
        "vocabulary are divided among them (tensor parallelism).",
    )
    fsdp: bool = Field(
        False,
        description="Shard parameters and optimizer state along distribute.data, too; each layer "
        "is gathered where it is used.",
    )
    sequence: bool = Field(
        False,
        description="Between attention and MLP, divide the tokens of each sequence among the "
        "devices of distribute.model: less memory for long sequences (sequence parallelism).",
    )

    @model_validator(mode="after")
    def _shards_have_devices(self) -> Self:
        if self.fsdp and self.data == 1:
            raise ValueError(
                "fsdp shards along distribute.data, which is 1; give it more devices, or fsdp false"
            )
        if self.sequence and self.model == 1:
            raise ValueError(
                "sequence shards along distribute.model, which is 1; give it more devices, or "
                "sequence false"
            )
        return self

    @property
    def num_devices(self) -> int:
        """Devices of the mesh; 1 distributes nothing."""
        return self.data * self.model

    def __str__(self) -> str:
        """For example "4 data x 2 model, FSDP"."""
        options = (", FSDP" if self.fsdp else "") + (", sequence" if self.sequence else "")
        return f"{self.data} data x {self.model} model{options}"

    def check_batch(self, batch_size: int) -> None:
        """Raise `UsageError` unless the sequences of a batch can be divided among the devices."""
        if batch_size % self.data:
            raise UsageError(
                f"train.batch_size {batch_size} cannot be divided among {self.data} devices; give "
                "a multiple of distribute.data."
            )

    def check_model(self, model: ModelConfig) -> None:
        """Raise `UsageError` unless heads and feed-forward layers can be divided.

        A vocabulary that cannot be divided is not an error: its table is replicated.
        """
        for key in ("num_heads", "num_kv_heads", "intermediate_dim"):
            if getattr(model, key) % self.model:
                raise UsageError(
                    f"model.{key} {getattr(model, key)} cannot be divided among "
                    f"{self.model} devices; lower distribute.model to a divisor of it."
                )


def sharded_axes(path: str, shape: tuple[int, ...], distribute: DistributeConfig) -> Axes:
    """The axis along which each dimension of a parameter is sharded; None: along none.

    Args:
        path: of the variable, such as "gpt/block_0/attention/qkv"; adapters and weights in a format
            for inference are known, too.

    >>> mesh = DistributeConfig(data=2, model=2, fsdp=True)
    >>> sharded_axes("gpt/block_0/attention/qkv", (64, 192), mesh)
    ('data', 'model')
    >>> sharded_axes("gpt/final_norm/scale", (64,), mesh)
    (None,)
    """
    axes: list[str | None] = [None] * len(shape)
    dimension = _model_dimension(path) if distribute.model > 1 else None
    if dimension is not None and shape[dimension] % distribute.model == 0:
        axes[dimension] = MODEL
    if distribute.fsdp and len(shape) > 1:
        free = [i for i, size in enumerate(shape) if not axes[i] and size % distribute.data == 0]
        if free:
            axes[free[-1]] = DATA  # of a table the width: its rows are looked up by sharded ids
    return tuple(axes)


def _model_dimension(path: str) -> int | None:
    """The dimension of a parameter that is sharded along `model`; None for none."""
    name = path.rpartition("/")[2]
    suffix = next(end for end in _KINDS if name.endswith(end))
    part, (inputs, outputs) = name.removesuffix(suffix), _KINDS[suffix]
    if part in _TABLES:  # in each format a row a token, with its scale
        return 0
    if part in _BY_OUTPUT:
        return outputs
    return inputs if part in _BY_INPUT else None


def describe(model: ModelConfig, distribute: DistributeConfig) -> str:
    """The mesh, and what is held whole by every device although there is more than one.

    >>> model = ModelConfig(vocab_size=65, num_layers=1, num_heads=2, hidden_dim=8, max_length=8)
    >>> describe(model, DistributeConfig(data=2, model=2))
    'a mesh of 2 data x 2 model; replicated: token_embedding, position_embedding'
    >>> describe(model, DistributeConfig(data=4, fsdp=True))
    'a mesh of 4 data x 1 model, FSDP'
    """
    whole = replicated(parameter_shapes(model), distribute)
    if not whole or (distribute.model == 1 and not distribute.fsdp):
        return f"a mesh of {distribute}"
    named = ", ".join(list(whole)[:2]) + (f" and {len(whole) - 2} more" if len(whole) > 2 else "")
    return f"a mesh of {distribute}; replicated: {named}"


def replicated(
    shapes: Iterable[tuple[str, tuple[int, ...]]], distribute: DistributeConfig
) -> dict[str, int]:
    """The matrices that every device holds whole, with their numbers of parameters.

    >>> replicated([("gpt/token_embedding", (65, 8))], DistributeConfig(data=1, model=2))
    {'gpt/token_embedding': 520}
    """
    return {
        path: math.prod(shape)
        for path, shape in shapes
        if len(shape) > 1 and not any(sharded_axes(path, shape, distribute))
    }
