"""Compiled functions."""

import logging

import numpy as np
import pytest

from kgpt import backend

pytestmark = pytest.mark.backend


def test_each_shape_is_compiled_once_and_without_a_warning(caplog, monkeypatch):
    """TensorFlow warns of a function that it traces often, in the middle of what kgpt prints."""
    monkeypatch.setattr(logging.getLogger("tensorflow"), "propagate", True)
    add = backend.jit(lambda x, y: x + y)
    for _ in range(2):
        for size in range(1, 9):
            x = backend.to_device(np.arange(size, dtype="float32"))
            np.testing.assert_array_equal(backend.to_host(add(x, x)), 2 * np.arange(size))
    assert add.compilations() in (0, 8)  # PyTorch does not compile it on a CPU
    assert not caplog.records
