"""Copies between host and device on PyTorch."""

from __future__ import annotations

from typing import Any

import keras
import ml_dtypes
import numpy as np
import torch
from keras import ops

from kgpt.backend import keras_internals

Tensor = Any
MAX_PINNED_BYTES = 1 << 20  # of a tensor that is copied to pinned memory, asynchronously


def to_host(tree: Any) -> Any:
    """The tensors and variables of a nested structure as numpy arrays, once they are computed.

    All copies from a GPU are under way before they are waited for, once. On CPU an array is a
    view.
    """
    tensors = keras.tree.map_structure(_tensor_of, tree)
    copies = keras.tree.map_structure(_start_host_copy, tensors)
    if any(x.is_cuda for x in keras.tree.flatten(tensors) if isinstance(x, torch.Tensor)):
        torch.cuda.current_stream().synchronize()
    return keras.tree.map_structure(_as_numpy, copies)


def constant(array: np.ndarray) -> Tensor:
    """An array that layers use at each call: on the device once, not copied each time."""
    return ops.convert_to_tensor(array)


def _tensor_of(leaf: Any) -> Any:
    value = leaf.value if isinstance(leaf, keras.Variable) else leaf
    return value.detach() if isinstance(value, torch.Tensor) else value


def _start_host_copy(x: Any) -> Any:
    """x in host memory, or on its way: small tensors are copied to pinned memory."""
    if not isinstance(x, torch.Tensor) or x.device.type == "cpu":
        return x
    return x.to("cpu", non_blocking=x.is_cuda and x.nbytes <= MAX_PINNED_BYTES)


def _as_numpy(x: Any) -> np.ndarray:
    if not isinstance(x, torch.Tensor):
        return np.asarray(x)
    if x.dtype == torch.bfloat16:  # numpy knows it by ml_dtypes alone
        return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return x.numpy()


def to_device(tree: Any) -> Any:
    """The numpy arrays of a nested structure as tensors on Keras's device; tensors are moved there.

    A copy to a GPU is queued, from pinned memory, and not waited for. A numpy scalar stays one,
    because the host would have to wait for its value to slice by it.
    """
    return keras.tree.map_structure(_to_tensor, tree)


def _to_tensor(leaf: Any) -> Any:
    if isinstance(leaf, np.generic):
        return leaf
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "bif":
        device = keras_internals.torch_device()
        if device.type == "cuda" and torch.cuda.is_available():
            return torch.tensor(leaf).pin_memory().to(device, non_blocking=True)
    return ops.convert_to_tensor(leaf)
