"""Attention on a KV cache that reads its filled blocks alone, in every type of cache."""

import keras
import numpy as np
import pytest
from keras import ops

from kgpt import backend
from kgpt.backend import kv_attention
from kgpt.model.kv_cache import quantize_heads

B, N, K, T, S, H = 2, 4, 2, 3, 10, 8
FILLED = 6
on_xla = pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch has its own")
BLOCK = 4  # S is no multiple of it


def example(dtype, filled=FILLED):
    """Queries, one layer's cache and a mask in which nothing is seen from `filled` on."""
    noise = np.random.default_rng(0)
    query = ops.convert_to_tensor(noise.normal(size=(B, N, T, H)).astype("float32"))
    parts = [noise.normal(size=(B, K, S, H)).astype("float32") for _ in range(2)]
    parts = [ops.convert_to_tensor(x) for x in parts]
    if dtype == "int8":
        (keys, key_scale), (values, value_scale) = map(quantize_heads, parts)
        layer = (keys, values, key_scale, value_scale)
    else:
        layer = tuple(ops.cast(x, dtype) for x in parts)
    mask = noise.random((B, T, S)) < 0.5
    mask[:, :, 1] = True
    mask[1, :, BLOCK:] = False  # nothing of the second block
    mask[:, :, filled:] = False
    return query, layer, ops.convert_to_tensor(mask)


def as_floats(layer):
    """A layer's keys and values as float32 arrays."""
    parts = [ops.convert_to_numpy(ops.cast(x, "float32")) for x in layer]
    return (parts[0] * parts[2], parts[1] * parts[3]) if len(parts) == 4 else tuple(parts)


def softmax_attention(query, layer, mask):
    keys, values = (np.repeat(x, N // K, axis=1) for x in as_floats(layer))
    scores = ops.convert_to_numpy(query) @ keys.transpose(0, 1, 3, 2)
    scores = np.where(ops.convert_to_numpy(mask)[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ values


def assert_close(found, expected):
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=1e-4, atol=1e-5)


of_any_type = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])


@pytest.mark.backend
@of_any_type
def test_attention_on_a_cache_of_any_type(dtype):
    query, layer, mask = example(dtype)
    filled = ops.convert_to_tensor(np.int32(FILLED))
    assert_close(
        backend.cached_attention(query, layer, mask, filled), softmax_attention(query, layer, mask)
    )


@pytest.mark.backend
@on_xla
@of_any_type
@pytest.mark.parametrize("filled", [FILLED, S])  # all: the last block overlaps the one before
def test_blocks_and_the_whole_cache_agree(dtype, filled, monkeypatch):
    monkeypatch.setattr(kv_attention, "BLOCK", BLOCK)
    query, layer, mask = example(dtype, filled)
    filled = ops.convert_to_tensor(np.int32(filled))
    expected = softmax_attention(query, layer, mask)
    assert_close(kv_attention.attend_to_whole_cache(query, layer, mask), expected)
    assert_close(kv_attention.attend_in_blocks(query, layer, mask, filled), expected)


@pytest.mark.backend
@on_xla
def test_blocks_beyond_the_filled_part_are_not_read(monkeypatch):
    monkeypatch.setattr(kv_attention, "BLOCK", BLOCK)
    query, layer, mask = example("float32")
    beyond = ops.arange(S)[None, None, :, None] >= 2 * BLOCK
    spoilt = tuple(ops.where(beyond, np.nan, x) for x in layer)
    filled = ops.convert_to_tensor(np.int32(FILLED))
    expected = softmax_attention(query, layer, mask)
    assert_close(kv_attention.attend_in_blocks(query, spoilt, mask, filled), expected)


@pytest.mark.backend
@on_xla
def test_a_sequence_does_not_depend_on_how_much_others_have_filled(monkeypatch):
    monkeypatch.setattr(kv_attention, "BLOCK", BLOCK)
    query, layer, mask = example("float32")
    results = [
        ops.convert_to_numpy(
            kv_attention.attend_in_blocks(query, layer, mask, ops.convert_to_tensor(length))
        )[1]  # the sequence that sees the first block alone
        for length in (np.int32(BLOCK), np.int32(S))
    ]
    np.testing.assert_array_equal(*results)


def test_a_quantized_head_keeps_its_largest_value_and_errs_by_half_a_step():
    x = np.random.default_rng(2).normal(size=(B, K, T, H)).astype("float32")
    x[0, 0, 0] = 0
    q, scale = (ops.convert_to_numpy(part) for part in quantize_heads(ops.convert_to_tensor(x)))
    assert scale.shape == (B, K, T, 1)
    assert (np.abs(q * scale - x) <= scale / 2 * 1.0001).all()
    np.testing.assert_array_equal(np.abs(q).max(-1)[1], 127)
