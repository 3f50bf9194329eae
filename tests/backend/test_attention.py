"""Every implementation of attention computes the same, including those that only a GPU chooses."""

import importlib

import keras
import numpy as np
import pytest
from keras import ops

from kgpt import backend
from kgpt.backend.attention_choice import AttentionDevice

pytestmark = pytest.mark.backend

BACKEND = keras.backend.backend()
B, K, H = 2, 2, 8
WINDOWS = [None, 1, 5, 999]
H100 = AttentionDevice("gpu", (9, 0), has_cudnn=True, has_triton=True)
NO_FUSED_KERNELS = AttentionDevice("gpu")

only_jax = pytest.mark.skipif(BACKEND != "jax", reason="the attention of JAX")
only_torch = pytest.mark.skipif(BACKEND != "torch", reason="the attention of PyTorch")


def example(length, groups, keys=None):
    """query (B, T, N, H), key and value (B, S, K, H)."""
    noise = np.random.default_rng(length)
    shapes = [(length, groups * K), (keys or length, K), (keys or length, K)]
    return [noise.normal(size=(B, *shape, H)).astype("float32") for shape in shapes]


def attention(query, key, value, mask):
    """Softmax attention in float64, its query heads one by one: (B, T, N, H)."""
    groups, out = query.shape[2] // key.shape[2], np.empty(query.shape)
    for head in range(query.shape[2]):
        q, k, v = query[:, :, head], key[:, :, head // groups], value[:, :, head // groups]
        scores = np.where(mask, q.astype("float64") @ k.transpose(0, 2, 1), -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, :, head] = weights / weights.sum(-1, keepdims=True) @ v
    return out


def causal(length, window, segment_ids=None):
    """(T, T) booleans; with segments (B, T, T)."""
    distance = np.arange(length)[:, None] - np.arange(length)[None]
    mask = (distance >= 0) & (distance < (window or length))
    if segment_ids is None:
        return mask
    return mask & (segment_ids[:, :, None] == segment_ids[:, None, :])


def segments(length):
    """(B, T): two segments in one row and three in the other."""
    steps = np.arange(length)
    return np.stack([steps >= 2, (steps > 0) + (steps >= length // 2)]).astype("int32")


def assert_equal(found, expected):
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=2e-5)


def pin(monkeypatch, device):
    """Make the backend choose as it does on `device`."""
    module = importlib.import_module(f"kgpt.backend.{BACKEND}_attention")
    monkeypatch.setattr(module, "attention_device", lambda *_: device)
    return module


def check_causal(length, window, groups, drop=None, packed=False):
    q, k, v = example(length, groups)
    ids = [segments(length)] if packed else []
    function = backend.jit(
        lambda q, k, v, *ids: backend.causal_attention(q, k, v, window, drop, *ids)
    )
    found = function(*map(ops.convert_to_tensor, (q, k, v, *ids)))
    assert_equal(found, attention(q, k, v, causal(length, window, *ids)))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(
    ("length", "window"), [(7, None), (7, 1), (7, 5), (7, 999), (256, None), (256, 70), (1, None)]
)
def test_causal_attention(length, window, groups):
    check_causal(length, window, groups)


@pytest.mark.parametrize(
    ("length", "window", "groups"), [(7, None, 1), (7, 3, 3), (256, None, 3), (256, 70, 1)]
)
def test_packed_sequences(length, window, groups):
    check_causal(length, window, groups, packed=True)


@pytest.mark.parametrize(("groups", "window", "packed"), [(1, None, False), (3, 5, True)])
def test_with_dropout_of_nothing(groups, window, packed):
    seen = []
    drop = lambda weights: seen.append(weights.shape) or weights  # noqa: E731
    check_causal(7, window, groups, drop, packed)
    assert [tuple(shape) for shape in seen] == [(B, K * groups, 7, 7)]


@only_jax
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("groups", [1, 3])
def test_what_cudnn_is_asked_for(monkeypatch, groups, window, packed):
    """Computed by XLA, which takes the same arguments."""
    import jax

    asked, xla = [], jax.nn.dot_product_attention

    def dot_product_attention(*args, implementation, **options):
        asked.append(implementation)
        return xla(*args, implementation="xla", **options)

    pin(monkeypatch, H100)
    monkeypatch.setattr(jax.nn, "dot_product_attention", dot_product_attention)
    q, k, v = (ops.cast(x, "bfloat16") for x in example(8, groups))
    ids = segments(8) if packed else None
    function = backend.jit(lambda *qkv: backend.causal_attention(*qkv, window, None, ids))
    found = ops.cast(function(q, k, v), "float32")
    exact = [ops.convert_to_numpy(ops.cast(x, "float32")) for x in (q, k, v)]
    expected = attention(*exact, causal(8, window, ids))
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=0.05)
    assert asked == ["cudnn"]


@only_torch
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("groups", [1, 3])
def test_scaled_dot_product_attention_with_repeated_heads(monkeypatch, groups, window):
    pin(monkeypatch, NO_FUSED_KERNELS)
    check_causal(7, window, groups)


@only_torch
@pytest.mark.parametrize("groups", [1, 3])
def test_flex_attention(monkeypatch, groups):
    """Not compiled, as a CPU runs it."""
    module, length, window = pin(monkeypatch, H100), 512, 70
    flex = module.flex
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(module, "compiled_flex_attention", lambda: flex.flex_attention)
    q, k, v = example(length, groups)
    tensors = [ops.convert_to_tensor(x).transpose(1, 2) for x in (q, k, v)]
    found = module.flex_attention(*tensors, window).transpose(1, 2)
    assert_equal(found, attention(q, k, v, causal(length, window)))
    mask = module.block_mask(length, window, tensors[0].device)
    assert mask.to_dense()[0, 0].tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 1, 1],
    ]  # blocks of 128
    assert module.block_mask(length, window, tensors[0].device) is mask

    ids = (np.arange(length) // np.array([[200], [300]])).astype("int32")  # (B, T)
    packed = module.flex_attention(*tensors, None, ops.convert_to_tensor(ids)).transpose(1, 2)
    assert_equal(packed, attention(q, k, v, causal(length, None, ids)))
    blocks = module.segment_block_mask(ops.convert_to_tensor(ids), None).to_dense()[:, 0]
    assert blocks[1].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1]]


@only_torch
@pytest.mark.parametrize("packed", [False, True])
def test_compiled_as_part_of_a_larger_function(monkeypatch, packed):
    """Without a graph break, and the device is asked for and not traced."""
    import torch

    module = importlib.import_module("kgpt.backend.torch_attention")

    @torch.compiler.assume_constant_result
    def attention_device(device):
        assert open(__file__).close() is None  # what PyTorch cannot trace
        return H100

    monkeypatch.setattr(module, "attention_device", attention_device)
    q, k, v = (ops.convert_to_tensor(x).bfloat16() for x in example(512, 3))
    q, k, v = (ops.concatenate([x, x], axis=-1) for x in (q, k, v))  # FlexAttention's least H, 16
    function = torch.compile(module.causal_attention, backend="eager", fullgraph=True)
    with torch.no_grad():
        ids = segments(512) if packed else None
        tensor = None if ids is None else ops.convert_to_tensor(ids)
        found = function(q, k, v, 70, None, tensor).float()
    exact = [ops.convert_to_numpy(x.float()) for x in (q, k, v)]
    expected = attention(*exact, causal(512, 70, ids))
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=0.1)


@pytest.mark.parametrize("device", ["own", pytest.param(NO_FUSED_KERNELS, marks=only_torch)])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("length", [1, 4])
def test_cached_attention(monkeypatch, length, groups, device):
    if device != "own":
        pin(monkeypatch, device)
    q, k, v = example(length, groups, keys=9)
    mask = np.random.default_rng(0).random((B, length, 9)) < 0.5
    mask[:, :, 3] = True
    heads_first = (ops.convert_to_tensor(x.transpose(0, 2, 1, 3)) for x in (q, k, v))
    query, *layer = heads_first
    filled = ops.convert_to_tensor(np.int32(9))
    found = backend.cached_attention(query, tuple(layer), ops.convert_to_tensor(mask), filled)
    assert_equal(ops.transpose(found, (0, 2, 1, 3)), attention(q, k, v, mask))


@pytest.mark.parametrize("length", [1, 4, 16])
def test_a_cache_keeps_what_no_new_token_replaces(length):
    noise, slots = np.random.default_rng(1), length + 2
    cache = noise.normal(size=(3, K, slots, H)).astype("float32")
    new = noise.normal(size=(3, K, length, H)).astype("float32")
    start, count = np.array([4, 11, 0], "int32"), np.array([length, 0, min(2, length)], "int32")
    expected = cache.copy()
    for row in range(3):
        for token in range(count[row]):
            expected[row, :, (start[row] + token) % slots] = new[row, :, token]
    indices = backend.cache_indices(*map(ops.convert_to_tensor, (start, count)), length, slots)
    found = backend.update_cache(*map(ops.convert_to_tensor, (cache, new)), indices)
    np.testing.assert_array_equal(ops.convert_to_numpy(found), expected)
