"""Copies between host and device on PyTorch."""

from __future__ import annotations

from typing import Any

import keras
import ml_dtypes
import numpy as np
import torch

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
    return keras.ops.convert_to_tensor(array)


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
