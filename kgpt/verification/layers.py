"""Find the layer that differs: each is given the reference's input and compared with its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from kgpt import backend
from kgpt.model.gpt import GPT
from kgpt.verification.reference import Reference


def different_layer(
    model: GPT, reference: Reference, ids: np.ndarray, tolerance: float
) -> str | None:
    """The path of the first layer whose output differs; None if no single layer does.

    Args:
        ids: (N, T) token ids.
        tolerance: greatest difference of an output, as a share of the layer's largest.
    """
    found: list[str] = []

    def record(path: str, x: np.ndarray, y: np.ndarray) -> None:
        if found:
            return
        ours = backend.to_host(ops.cast(layer_of(model, path)(_given(x)), "float32"))
        if not np.abs(ours - y).max() <= tolerance * np.abs(y).max():
            found.append(path)

    reference.logits(ids, record)
    return found[0] if found else None


def layer_of(model: GPT, path: str) -> Callable[[Any], Any]:
    """The function of the layer called `path`, as the reference names it."""
    if path == "token_embedding":
        return lambda ids: model.embed(ids, ops.arange(ids.shape[1]))
    if path == "head":
        return model.unembed
    block, _, name = path.partition("/")
    if not name:
        return model.final_norm
    layer: Callable[[Any], Any] = getattr(model.blocks[int(block.removeprefix("block_"))], name)
    return layer


def _given(x: np.ndarray) -> Any:
    kept = "int32" if np.issubdtype(x.dtype, np.integer) else "float32"
    return ops.convert_to_tensor(x.astype(kept))
