"""Files of named arrays, read back by the safetensors library."""

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file

from kgpt.checkpoints.safetensors_io import write_arrays


def test_arrays_are_written_each_in_its_own_dtype(tmp_path):
    values = np.arange(6).reshape(2, 3)
    dtypes = ("float32", "float16", "float64", "int64", "int32", "uint32", "bool")
    arrays = {dtype: values.astype(dtype) for dtype in dtypes}
    arrays |= {
        "bfloat16": values.astype(ml_dtypes.bfloat16),
        "scalar": np.array(7, "int32"),
        "empty": np.zeros((0, 4), "float32"),
        "transposed": values.T.astype("float32", order="K"),
    }
    assert not arrays["transposed"].flags.c_contiguous
    file = tmp_path / "some.safetensors"
    write_arrays(file, arrays)
    stored = load_file(file)
    assert stored.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (stored[name].dtype, stored[name].shape) == (array.dtype, array.shape), name
        assert stored[name].tobytes() == array.tobytes(), name
