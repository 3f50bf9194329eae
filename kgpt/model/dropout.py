"""Dropout whose noise is a function of a key, not of hidden state.

The key is (seed, step) mixed with the layer's own number. Recomputing a block for gradient
checkpointing, or resuming a run, therefore draws the very same mask, on every backend.
"""

import zlib

import keras
from keras import ops

from kgpt import backend


@keras.saving.register_keras_serializable("kgpt")
class Dropout(keras.layers.Layer):
    """Zero a share `rate` of the inputs while training, and scale up the rest.

    Called with `key=None` it does nothing: that is how a model is evaluated.
    """

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def build(self, input_shape):
        self.salt = zlib.crc32(self.path.encode()) & 0x7FFFFFFF
        self.built = True

    def call(self, x, key=None):
        if key is None or self.rate == 0:
            return x
        return backend.dropout(x, self.rate, ops.bitwise_xor(key, [0, self.salt]))

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


class DropoutKey(keras.layers.Layer):
    """Counts training calls and gives each its key: int32 (2,), made of the seed and the count."""

    def __init__(self, seed=0, **kwargs):
        super().__init__(**kwargs, dtype="float32")
        self.seed = seed

    def build(self, input_shape=None):
        self.count = self.add_weight(
            name="count", shape=(), dtype="int32", initializer="zeros", trainable=False
        )
        self.built = True

    def draw(self):
        """The next key. No `call`: Keras has none without arguments."""
        count = self.count + 1
        self.count.assign(count)
        return ops.stack([ops.cast(self.seed, "int32"), ops.convert_to_tensor(count)])
