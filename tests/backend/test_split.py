"""Parts of a tensor along an axis."""

import numpy as np
import pytest

from kgpt import backend


@pytest.mark.backend
@pytest.mark.parametrize("sizes", [(2, 2, 2), (4, 1, 1), (6,)])
def test_the_parts_have_their_sizes_and_make_up_the_tensor(sizes):
    x = np.arange(2 * 6 * 3, dtype="float32").reshape(2, 6, 3)
    parts = backend.to_host(backend.split(backend.to_device(x), sizes, axis=1))
    assert [part.shape for part in parts] == [(2, size, 3) for size in sizes]
    assert np.array_equal(np.concatenate(parts, axis=1), x)
