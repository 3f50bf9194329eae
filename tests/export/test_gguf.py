"""Quantized GGUF files: the ggml type of each tensor, and its values."""

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")

from kgpt.checkpoints.pretrained import save_model  # noqa: E402
from kgpt.errors import UsageError  # noqa: E402
from kgpt.export.gguf import export_gguf  # noqa: E402
from kgpt.text.tokenizer import Tokenizer  # noqa: E402
from tests.tiny import tiny_model  # noqa: E402

pytestmark = pytest.mark.backend


def test_matrices_are_quantized_and_embeddings_stay_in_8_bits(tmp_path):
    save_model(tiny_model(num_heads=2), tmp_path, Tokenizer.of_bytes())
    files = {}
    for dtype in ("float32", "q8_0", "q4_0"):
        (tmp_path / dtype).mkdir()
        export_gguf(tmp_path, tmp_path / dtype, dtype)
        tensors = gguf.GGUFReader(tmp_path / dtype / "model.gguf").tensors
        files[dtype] = {tensor.name: tensor for tensor in tensors}
    for dtype, error in (("q8_0", 0.005), ("q4_0", 0.13)):
        for name, tensor in files[dtype].items():
            exact = np.array(files["float32"][name].data)
            kind = tensor.tensor_type.name
            if exact.ndim == 1 or name == "position_embd.weight":
                assert kind == "F32"
            else:
                assert kind == ("Q8_0" if name == "token_embd.weight" else dtype.upper())
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            assert np.abs(values - exact).max() <= error * np.abs(exact).max() + 1e-6


def test_a_type_that_no_file_is_written_in_is_refused(tmp_path):
    with pytest.raises(UsageError, match="float32, float16, q8_0, q4_0, not bfloat16"):
        export_gguf(tmp_path, tmp_path, "bfloat16")
