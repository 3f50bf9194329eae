"""A CUDA device without memory: PyTorch's fake tensors, on a machine that may have no GPU.

Inside `fake_cuda()` everything that Keras makes is a fake tensor on "cuda:0". Whatever a GPU would
refuse, or answer by making the host wait, raises: two devices in one operation, `bool(tensor)`,
`tensor.item()`, NumPy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """A scope whose tensors are fake and on a CUDA device."""
    fake = FakeTensorMode(allow_non_fake_inputs=False)
    with fake, keras.device("cuda:0"), _WithoutCuda(), pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
        yield fake


class _WithoutCuda(TorchFunctionMode):
    """What a PyTorch built for CPU does not leave to fake tensors: `x[...]` and constants."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__getitem__ and not torch.cuda.is_available():
            view, tensors = _split(*args)
            return torch.ops.aten.index(view, tensors) if tensors else view
        if func is torch.Tensor.__setitem__ and not torch.cuda.is_available():
            view, tensors = _split(*args[:2])
            torch.ops.aten.index_put_(view, tensors, args[2]) if tensors else view.copy_(args[2])
            return None
        if func is torch.Tensor.copy_ and not torch.cuda.is_available():
            return torch.ops.aten.copy_(*args)
        if func in (torch.as_tensor, torch.tensor) and not isinstance(args[0], torch.Tensor):
            return torch.empty(np.shape(args[0]), **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _split(x: torch.Tensor, index: Any) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """The view that numbers, slices and None select, and the tensors that index its axes."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [part for part in parts if not isinstance(part, torch.Tensor)]:
        at = next(i for i, part in enumerate(parts) if part is Ellipsis)
        used = sum(part is not None for part in parts) - 1
        parts[at : at + 1] = [slice(None)] * (x.ndim - used)
    axis = 0
    tensors: list[torch.Tensor | None] = []
    for part in parts:
        if part is None:
            x = x.unsqueeze(axis)
        elif isinstance(part, torch.Tensor):
            tensors += [None] * (axis - len(tensors)) + [part]
        elif isinstance(part, slice):
            x = torch.ops.aten.slice(x, axis, part.start, part.stop, part.step or 1)
        else:
            x = x.select(axis, part)
            continue
        axis += 1
    return x, tensors
