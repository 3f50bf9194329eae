"""Batches that are put on the device ahead of time are the same ones, in the same order."""

import keras
import numpy as np
import pytest

from kgpt import backend
from kgpt.backend.one_batch_ahead import OneBatchAhead

pytestmark = pytest.mark.backend


class Numbers(keras.utils.PyDataset):
    """Batch i is (i, i)."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return np.full((2, 3), index, "int32"), np.full((2, 3), index, "int32")


def test_each_batch_is_put_once_before_the_one_before_is_used():
    put = []
    ahead = OneBatchAhead(Numbers(), lambda batch: put.append(int(batch[0][0, 0])) or batch)
    used = []
    for index in range(len(ahead)):
        batch = ahead[index]
        assert put == list(range(min(index + 2, 4)))
        used.append(int(batch[0][0, 0]))
    assert used == [0, 1, 2, 3]


def test_any_batch_can_be_asked_for():
    ahead = OneBatchAhead(Numbers(), lambda batch: batch)
    assert [int(ahead[index][0][0, 0]) for index in (2, 0, 3, 3, 1)] == [2, 0, 3, 3, 1]


def test_a_cpu_uses_the_data_set_as_it_is():
    if backend.device()[0] != "cpu":
        pytest.skip("a GPU gets its batches ahead of time")
    dataset = Numbers()
    assert backend.prefetch(dataset) is dataset
