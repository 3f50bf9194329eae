"""int8 and int4 storage: the rounding error, and loading a quantized directory like any other."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kgpt.checkpoints.convert import quantize_model
from kgpt.checkpoints.model_info import weight_bytes
from kgpt.checkpoints.pretrained import load_config, load_model, path_below, save_model
from kgpt.checkpoints.quantized import FILES
from kgpt.checkpoints.weights import Weights
from kgpt.errors import CheckpointError, UsageError
from kgpt.model.quantization import (
    GROUP_SIZE,
    dequantize_int4,
    dequantize_int8,
    quantize_int4,
    quantize_int8,
)
from tests.model.models import KINDS, model_of

weights = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)


def matrices(width):
    return st.integers(1, 5).flatmap(
        lambda out: arrays.arrays("float32", (out, width), elements=weights)
    )


@given(st.integers(1, 40).flatmap(matrices))
def test_int8_moves_no_weight_by_more_than_half_a_scale(matrix):
    q, scale = quantize_int8(matrix)
    largest = np.abs(matrix).max(axis=1, keepdims=True)
    assert q.dtype == np.int8 and q.min() >= -127
    assert (np.abs(dequantize_int8(q, scale) - matrix) <= largest / 254 * 1.001 + 1e-30).all()


@given(matrices(2 * GROUP_SIZE))
def test_int4_moves_no_weight_far_and_groups_do_not_mix(matrix):
    packed, scale = quantize_int4(matrix)
    assert packed.nbytes * 2 == matrix.size and scale.shape == (len(matrix), 2)
    groups = matrix.reshape(-1, GROUP_SIZE)
    moved = np.abs(dequantize_int4(packed, scale) - matrix).reshape(-1, GROUP_SIZE)
    largest = np.abs(groups).max(axis=1, keepdims=True)
    # Half a scale, or what clipping at 0.8 of the largest takes; float16 rounds the scale.
    assert (moved <= largest * 0.201 + 1e-6).all()
    plain = np.rint(groups / np.maximum(largest / 7, 1e-30)) * (largest / 7)
    spare = GROUP_SIZE * 2e-4 * np.square(largest[:, 0]) + 1e-6  # what rounding the scale may cost
    assert (np.square(moved).sum(1) <= np.square(plain - groups).sum(1) + spare).all()


def test_what_fits_the_grid_comes_back_exactly():
    q = np.random.default_rng(0).integers(-7, 8, (6, 3 * GROUP_SIZE))
    q[:, ::GROUP_SIZE] = 7
    matrix = (q * 0.25).astype("float32")
    np.testing.assert_array_equal(dequantize_int4(*quantize_int4(matrix)), matrix)
    wide = np.random.default_rng(0).integers(-127, 128, (6, 50)).astype("float32")
    wide[:, 0] = 127
    np.testing.assert_array_equal(dequantize_int8(*quantize_int8(wide)), wide)


@pytest.fixture
def stored(tmp_path):
    """A function: a model of one of `KINDS`, quantized; its folders before and after."""

    def make(kind, bits):
        before, after = tmp_path / "before", tmp_path / "after"
        before.mkdir()
        after.mkdir()
        save_model(model_of(kind), before)
        quantize_model(before, after, bits)
        return before, after

    return make


@pytest.mark.backend
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", ["gpt2", "gpt2-no-bias", "llama", "qk-norm"])
def test_a_quantized_directory_is_an_ordinary_model(stored, kind, bits):
    """Every backend loads the dequantized weights, each in its variable and orientation."""
    before, after = stored(kind, bits)
    config = load_config(before)
    assert load_config(after) == config
    original, quantized = Weights(before, config), Weights(after, config)
    model = load_model(after)
    for variable in model.trainable_variables:
        path = path_below(variable)
        was, now = original.read(path), quantized.read(path)
        np.testing.assert_array_equal(np.asarray(variable.numpy()), now)
        if was.ndim == 1:
            np.testing.assert_array_equal(now, was)
        else:
            assert not np.array_equal(now, was)
            assert np.abs(now - was).max() <= np.abs(was).max() * (0.004 if bits == 8 else 0.2)


@pytest.mark.backend
def test_int8_hardly_changes_the_logits(stored):
    before, after = stored("llama", 8)
    ids = np.random.default_rng(1).integers(0, KINDS["llama"]["vocab_size"], (2, 12))
    logits = (load_model(folder)(ids) for folder in (before, after))
    was, now = map(keras.ops.convert_to_numpy, logits)
    assert 0 < (now - was).std() < 0.05 * was.std()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "llama-window"])
def test_the_size_is_the_predicted_one(stored, kind, bits):
    before, after = stored(kind, bits)
    size = (after / FILES[bits]).stat().st_size
    header = int.from_bytes((after / FILES[bits]).read_bytes()[:8], "little") + 8
    assert size - header == weight_bytes(load_config(before))[f"int{bits}"]


def test_matrices_that_do_not_divide_into_groups_stay_int8(stored):
    _, after = stored("llama-window", 4)  # an attention output of 24 inputs
    assert b"o_proj.weight.int8" in (after / FILES[4]).read_bytes()


@pytest.mark.parametrize("fault", ["flipped", "cut", "missing", "future"])
def test_a_damaged_file_is_refused_with_a_sentence(stored, fault):
    _, after = stored("gpt2", 8)
    file = after / FILES[8]
    raw = bytearray(file.read_bytes())
    if fault == "flipped":
        raw[-1] ^= 1
        file.write_bytes(raw)
    elif fault == "cut":
        file.write_bytes(raw[:-10])
    elif fault == "missing":
        file.unlink()
    else:
        values = json.loads((after / "config.json").read_text())
        values["kgpt"]["quantization"]["bits"] = 3
        (after / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="damaged|missing|cannot read"):
        Weights(after, load_config(after))


def test_it_is_not_quantized_twice(stored, tmp_path):
    _, after = stored("gpt2", 8)
    with pytest.raises(UsageError, match="already"):
        quantize_model(after, tmp_path, 4)
