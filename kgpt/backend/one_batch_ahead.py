"""Batches of a data set, each copied to the device while the one before is being computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


class OneBatchAhead(keras.utils.PyDataset):
    """The batches of `dataset`, in its order, as `put` makes them.

    Args:
        put: copies a batch to the device, without waiting until it is there.
    """

    def __init__(self, dataset: keras.utils.PyDataset, put: Callable[[Any], Any]):
        super().__init__()
        self.dataset, self.put = dataset, put
        self._ahead: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        batch = self._ahead.pop(index) if index in self._ahead else self.put(self.dataset[index])
        following = index + 1
        self._ahead = {}
        if following < len(self):
            self._ahead[following] = self.put(self.dataset[following])
        return batch
