"""Initial weights that are the same on every backend: normal noise from (seed, weight name)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kgpt import backend
from kgpt.config import QUANTIZED_BITS, QuantizedDtype

if TYPE_CHECKING:
    from kgpt.model.quantized_weight import QuantizedMatrix

Tensor = Any


@keras.saving.register_keras_serializable("kgpt")
class Normal(keras.initializers.Initializer):
    """Normal noise drawn by NumPy's counter-based Philox generator.

    Args:
        stddev: standard deviation.
        seed: integer; the same seed gives the same weights on every backend and machine.

    Example:

    >>> first, again = Normal(1.0, 7)((2, 2)), Normal(1.0, 7)((2, 2))
    >>> bool(keras.ops.all(keras.ops.equal(first, again)))
    True
    """

    def __init__(self, stddev: float = 0.02, seed: int = 0) -> None:
        self.stddev = stddev
        self.seed = seed

    def __call__(self, shape: tuple[int, ...], dtype: Any = None, layout: Any = None) -> Tensor:
        """The values as a tensor; with the layout of a mesh each device gets its shard alone."""
        values = self.values(shape, dtype)
        if layout is None:
            return keras.ops.convert_to_tensor(values, dtype=dtype)
        return backend.distribution.place_shards(values.__getitem__, shape, layout)

    def values(self, shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        """The values in host memory."""
        noise = np.random.Generator(np.random.Philox(self.seed))
        values = noise.standard_normal(shape, dtype="float32") * np.float32(self.stddev)
        return values.astype(keras.backend.standardize_dtype(dtype), copy=False)

    def quantized(self, weight_format: QuantizedDtype) -> QuantizedMatrix | None:
        """The values as they are stored in this format, never as floats; None if they are not."""
        return None

    def named(self, path: str, scale: float = 1.0) -> Normal:
        """The initializer for the variable at `path`, relative to this one's layer.

        Only the last part of the path seeds the noise. `scale` multiplies the deviation.
        """
        name = path.rpartition("/")[2]
        digest = hashlib.blake2b(f"{self.seed}/{name}".encode(), digest_size=8).digest()
        return Normal(self.stddev * scale, int.from_bytes(digest, "little"))

    def get_config(self) -> dict[str, Any]:
        return {"stddev": self.stddev, "seed": self.seed}


@keras.saving.register_keras_serializable("kgpt")
class CheckpointInitializer(Normal):
    """Reads each variable from a model directory when it is created, in place of noise.

    A layer recreated from its configuration starts from noise again.

    Args:
        weights: a `kgpt.checkpoints.weights.Weights`.
        path: of the variable, below the model.
        new: paths of variables that begin as noise, which the directory has not.
        seed: of that noise.
    """

    def __init__(
        self,
        weights: Any,
        stddev: float = 0.02,
        path: str = "",
        new: tuple[str, ...] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(stddev, seed)
        self.weights, self.path, self.new = weights, path, new

    def values(self, shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        value: np.ndarray = self.weights.read(self.path, keras.backend.standardize_dtype(dtype))
        return value

    def quantized(self, weight_format: QuantizedDtype) -> QuantizedMatrix:
        """Those of a directory in this format; of others quantized in host memory."""
        from kgpt.model.quantized_weight import QuantizedMatrix

        return QuantizedMatrix(
            *self.weights.read_quantized(self.path, QUANTIZED_BITS[weight_format])
        )

    def named(self, path: str, scale: float = 1.0) -> Normal:
        below = f"{self.path}/{path}" if self.path else path
        if below in self.new:
            return super().named(path, scale)
        return CheckpointInitializer(self.weights, self.stddev, below, self.new, self.seed)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Normal:
        return Normal(**config)
