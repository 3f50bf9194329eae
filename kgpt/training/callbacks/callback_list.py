"""Calls the callbacks of `fit` without waiting for the device at every batch."""

from __future__ import annotations

from typing import Any

import keras


class CallbackList(keras.callbacks.CallbackList):
    """Keras's, except that after a training batch the logs are tensors on the device.

    Keras converts them to floats, which waits for the step; so the next one could not be prepared
    while the device computes. A callback reads what it needs, at the steps at which it needs it.
    """

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)
