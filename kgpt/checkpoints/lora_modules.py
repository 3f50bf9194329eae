"""What LoRA adapts: the matrix products of a model, by the modules of Hugging Face's format.

Also the arithmetic of an adapter in NumPy. No Keras here.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from kgpt.checkpoints.hf_config import model_type_of
from kgpt.checkpoints.weight_map import tensor_mappings
from kgpt.config import ModelConfig
from kgpt.errors import UsageError

LINEARS = ("attention/qkv", "attention/output", "mlp/up", "mlp/down")


class Projection(NamedTuple):
    """A matrix product that is a module of the model in Hugging Face's format.

    Attributes:
        module: such as "model.layers.0.self_attn.q_proj". tensor: the name of its weight.
        path: of the variable that has its weight, such as "block_0/attention/qkv".
        start: its first column there.
        inputs, outputs: its size.
        transposed: the file stores its weight (out, in) instead of (in, out).
    """

    module: str
    tensor: str
    path: str
    start: int
    inputs: int
    outputs: int
    transposed: bool


def projections(config: ModelConfig) -> dict[str, Projection]:
    """The matrix products of a model's blocks by module."""
    found = {}
    for mapping in tensor_mappings(config, model_type_of(config)):
        if mapping.path.partition("/")[2] not in LINEARS:
            continue
        for name, shape, start in mapping.tensors():
            inputs, outputs = shape[::-1] if mapping.transposed else shape
            module = name.removesuffix(".weight")
            found[module] = Projection(
                module, name, mapping.path, start, inputs, outputs, mapping.transposed
            )
    return found


def scaling(rank: int, alpha: float, rslora: bool) -> float:
    """The factor on an adapter's output."""
    return alpha / (rank**0.5 if rslora else rank)


def merge_matrix(
    weight: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    scaling: float,
    magnitude: np.ndarray | None = None,
) -> np.ndarray:
    """weight (out, in) + scaling * b (out, rank) @ a (rank, in), float32.

    With a magnitude (out,), of DoRA, each row is then scaled to that norm.
    """
    merged: np.ndarray = weight.astype("float32") + np.float32(scaling) * (b @ a)
    if magnitude is not None:
        merged *= (magnitude / np.linalg.norm(merged, axis=1))[:, None]
    return merged


def shortest_names(chosen: Iterable[str], known: Iterable[str]) -> list[str]:
    """The shortest ends of names that are those of the `chosen` modules, of all `known` ones.

    >>> known = ["h.0.attn.c_proj", "h.0.mlp.c_proj", "h.1.attn.c_proj", "h.1.mlp.c_proj"]
    >>> shortest_names(known, known)
    ['c_proj']
    >>> shortest_names(["h.0.mlp.c_proj", "h.1.mlp.c_proj"], known)
    ['mlp.c_proj']
    >>> shortest_names(["h.0.mlp.c_proj"], known)
    ['h.0.mlp.c_proj']
    """
    chosen, known = set(chosen), list(known)
    for parts in (1, 2):
        ends = {name: ".".join(name.split(".")[-parts:]) for name in known}
        names = {ends[name] for name in chosen}
        if {name for name in known if ends[name] in names} == chosen:
            return sorted(names)
    return sorted(chosen)


def target_names(targets: str | list[str], known: Iterable[str]) -> list[str]:
    """The modules of `known` that names and patterns mean, in the order of the model.

    >>> target_names(["q_proj", "*.1.*"], ["layers.0.q_proj", "layers.0.k_proj", "layers.1.v_proj"])
    ['layers.0.q_proj', 'layers.1.v_proj']
    """
    known = list(known)
    if targets == "all-linear":
        return known
    for target in targets:
        if not any(matches(name, target) for name in known):
            ends = sorted({name.rpartition(".")[2] for name in known})
            raise UsageError(f"No module is called {target!r}; the model has {', '.join(ends)}.")
    return [name for name in known if any(matches(name, target) for target in targets)]


def matches(module: str, target: str) -> bool:
    ends_so = module == target or module.endswith(f".{target}")
    return ends_so or fnmatch.fnmatchcase(module, target)
