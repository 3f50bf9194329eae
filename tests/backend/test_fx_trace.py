"""On PyTorch a function is run as it is, then traced, then replayed."""

import os

import numpy as np
import pytest

from kgpt import backend

pytestmark = [
    pytest.mark.backend,
    pytest.mark.skipif(os.environ["KERAS_BACKEND"] != "torch", reason="PyTorch traces"),
]


def test_the_second_call_of_a_shape_is_traced_and_later_ones_are_replayed():
    runs = []

    def double(x):
        runs.append(1)
        return x * 2

    traced = backend.fx_trace(double)
    for call, count in enumerate((1, 2, 2, 2)):
        x = backend.to_device(np.array([float(call)]))
        assert backend.to_host(traced(x)) == [2.0 * call]
        assert len(runs) == count
    traced(backend.to_device(np.array([1.0, 2.0])))
    assert (len(runs), traced.compilations()) == (3, 2)
