"""Refuses on the CPU what PyTorch refuses, or waits for, on a GPU: numpy reading a tensor.

Tensors become numpy arrays in `backend.to_host` and in Keras's `convert_to_numpy` alone, which
copy them to the host first.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parent.parent
ALLOWED = (
    "kgpt/backend/torch_transfer.py",
    "keras/src/backend/torch/core.py",
    "kgpt/checkpoints/importers.py",  # tensors of a file, which are on the host
)
OUR_FOLDERS = tuple(f"{ROOT / name}/" for name in ("kgpt", "tui", "tests"))
BETWEEN = ("/numpy/", "tests/transfers.py")  # who reads through these is asked
REFUSAL = "can't convert a device tensor to numpy; use backend.to_host"


def caller() -> str:
    """The file of the function that asks for the array, directly or through `BETWEEN`."""
    frame = sys._getframe(2)
    while frame.f_back and any(part in frame.f_code.co_filename for part in BETWEEN):
        frame = frame.f_back
    return frame.f_code.co_filename


@contextlib.contextmanager
def refuse_host_copies() -> Iterator[None]:
    """Refuse `numpy.array(tensor)` everywhere, and `tensor.numpy()` in this project."""
    import torch

    to_array, to_numpy = torch.Tensor.__array__, torch.Tensor.numpy

    def guarded_array(tensor: Any, *args: Any, **options: Any) -> Any:
        if not caller().endswith(ALLOWED):
            raise TypeError(REFUSAL)
        return to_array(tensor, *args, **options)

    def guarded_numpy(tensor: Any, *args: Any, **options: Any) -> Any:
        file = caller()
        if file.startswith(OUR_FOLDERS) and not file.endswith(ALLOWED):
            raise TypeError(REFUSAL)
        return to_numpy(tensor, *args, **options)

    with (
        mock.patch.object(torch.Tensor, "__array__", guarded_array),
        mock.patch.object(torch.Tensor, "numpy", guarded_numpy),
    ):
        yield
