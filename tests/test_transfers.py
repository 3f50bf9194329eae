"""Copies between host and device: what they return, where they happen, and how many there are."""

from __future__ import annotations

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import ops

from kgpt import backend
from kgpt.generation.sequence import idle_sequences

pytestmark = pytest.mark.backend


def test_to_host_keeps_structure_dtypes_and_values():
    variable = keras.Variable(np.arange(6, dtype="float32").reshape(2, 3))
    half = ops.convert_to_tensor([0.5, -3.0], "bfloat16")
    tree = {"a": [variable, half], "b": (ops.convert_to_tensor(np.int32(7)), np.ones(2))}
    copied = backend.to_host(tree)
    assert all(type(leaf) is np.ndarray for leaf in keras.tree.flatten(copied))
    assert copied["a"][0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert copied["a"][1].dtype == ml_dtypes.bfloat16 and copied["a"][1].tolist() == [0.5, -3]
    assert copied["b"][0].dtype == np.int32 and int(copied["b"][0]) == 7
    params = keras.tree.map_structure(ops.convert_to_tensor, idle_sequences(2, 5)[0])
    assert type(backend.to_host(params)) is type(params)


def test_to_host_copies_nothing_on_a_cpu():
    if backend.device()[0] != "cpu":
        pytest.skip("a GPU's memory is copied")
    tensor = ops.ones((3, 4))
    assert np.shares_memory(backend.to_host(tensor), backend.to_host(tensor))


@pytest.mark.skipif(backend.name != "torch", reason="the others copy without being asked")
def test_implicit_copies_are_refused_while_testing():
    tensor = ops.ones(3)
    reads = (np.array, np.asarray, np.isfinite, lambda x: x.numpy(), lambda x: np.stack([x, x]))
    for copy in reads:
        with pytest.raises(TypeError, match="backend.to_host"):
            copy(tensor)
    variable = keras.Variable([1.0])
    assert variable.numpy() == ops.convert_to_numpy(variable) == backend.to_host(variable) == 1
