"""Initial weights that are the same on every backend: normal noise from (seed, weight name)."""

import hashlib

import keras
import numpy as np


@keras.saving.register_keras_serializable("kgpt")
class Normal(keras.initializers.Initializer):
    """Normal noise drawn by NumPy's counter-based Philox generator.

    Args:
        stddev: standard deviation.
        seed: integer; the same seed gives the same weights on every backend and machine.

    Example:

    >>> bool((Normal(1.0, 7)((2, 2)) == Normal(1.0, 7)((2, 2))).all())
    True
    """

    def __init__(self, stddev=0.02, seed=0):
        self.stddev = stddev
        self.seed = seed

    def __call__(self, shape, dtype=None):
        noise = np.random.Generator(np.random.Philox(self.seed))
        values = noise.standard_normal(shape, dtype="float32") * np.float32(self.stddev)
        return keras.ops.convert_to_tensor(values, dtype=dtype)

    def named(self, name, scale=1.0):
        """The initializer for the weight called `name`: other noise, `scale` times as large."""
        digest = hashlib.blake2b(f"{self.seed}/{name}".encode(), digest_size=8).digest()
        return Normal(self.stddev * scale, int.from_bytes(digest, "little"))

    def get_config(self):
        return {"stddev": self.stddev, "seed": self.seed}
