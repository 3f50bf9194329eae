"""Training and decoding on JAX are lowered for CUDA, which a machine without a GPU can do.

Lowering finds what would raise while a GPU traces a model, such as a head dimension that cuDNN
refuses. It compiles nothing.
"""

import functools

import keras
import numpy as np
import pytest

from kgpt import backend
from kgpt.backend.attention_choice import AttentionCall, AttentionDevice, jax_attention
from kgpt.generation import decode
from kgpt.generation.program import SAMPLE
from tests.backend.architectures import (
    BATCH,
    HEAD_DIMS,
    MODELS,
    PRECISIONS,
    PRESETS,
    build,
    build_preset,
    decoding,
)

pytestmark = [
    pytest.mark.backend,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="what JAX lowers"),
]

CUDNN = "__cudnn$fmha"  # in the name of its custom call
A100, H100 = (AttentionDevice("gpu", major, has_cudnn=True) for major in ((8, 0), (9, 0)))


@pytest.fixture(params=[A100, H100], ids=["A100", "H100"])
def gpu(request, monkeypatch):
    """JAX believes in a GPU, as far as attention and decoding ask for one."""
    return pretend_gpu(monkeypatch, request.param)


@pytest.fixture
def h100(monkeypatch):
    return pretend_gpu(monkeypatch, H100)


def pretend_gpu(monkeypatch, device):
    from kgpt.backend import jax_attention as module
    from tests.backend.jax_internals import pretend_cudnn

    if device.has_cudnn:
        pretend_cudnn(monkeypatch, device.compute_capability)
    monkeypatch.setattr(module, "attention_device", lambda: device)
    return device


def lowered(function, *args):
    """The StableHLO of `function(*args)` for CUDA; the arguments may be shapes."""
    import jax

    traced = jax.jit(lambda *args: function(*args)).trace(*args)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def shape_of(shape, dtype):
    import jax

    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_attention_and_its_gradient(gpu, head_dim, dtype):
    import jax

    chosen = jax_attention(gpu, AttentionCall(dtype, head_dim))
    for num_kv_heads, window in ((4, None), (2, 100)):

        def loss(q, k, v, window=window):
            return backend.causal_attention(q, k, v, window).astype("float32").sum()

        query = shape_of((BATCH, 256, 4, head_dim), dtype)
        key = shape_of((BATCH, 256, num_kv_heads, head_dim), dtype)
        text = lowered(jax.grad(loss, (0, 1, 2)), query, key, key)
        assert (CUDNN in text) == (chosen == "cudnn")


@pytest.mark.parametrize("window", [None, 100])
def test_packed_sequences_and_their_gradient(h100, window):
    import jax

    def loss(q, k, v, ids):
        return backend.causal_attention(q, k, v, window, None, ids).astype("float32").sum()

    query, key = (shape_of((BATCH, 256, heads, 64), "bfloat16") for heads in (4, 2))
    ids = shape_of((BATCH, 256), "int32")
    assert CUDNN in lowered(jax.grad(loss, (0, 1, 2)), query, key, key, ids)


def test_without_cudnn_and_on_older_gpus(monkeypatch):
    for device in (H100._replace(has_cudnn=False), AttentionDevice("gpu", (7, 5), has_cudnn=True)):
        pretend_gpu(monkeypatch, device)
        x = shape_of((BATCH, 64, 4, 64), "bfloat16")
        assert CUDNN not in lowered(lambda x: backend.causal_attention(x, x, x), x)


def train_step(model, length):
    """The StableHLO of `model.train_step`: loss, gradient and update."""
    state = [
        [shape_of(v.shape, v.dtype) for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    ]
    ids = shape_of((BATCH, length), "int32")
    return lowered(model.train_step, state, (ids, ids, shape_of((BATCH, length), "float32")))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_training(h100, name, precision):
    model = build(name, precision)
    config = model.config
    call = AttentionCall(precision, config.head_dim, dropout=config.dropout > 0)
    text = train_step(model, config.max_length)
    assert (CUDNN in text) == (jax_attention(h100, call) == "cudnn")
    assert "f64" not in text


@pytest.mark.parametrize("name", PRESETS)
def test_training_a_preset(h100, name):
    model = build_preset(name)
    assert "f64" not in train_step(model, model.config.max_length)


def with_variables(model, function):
    """`function(values, *args)`, which sees `values` in place of the model's variables."""

    def run(values, *args):
        mapping = list(zip(model.variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return function(*args)

    return run, [shape_of(v.shape, v.dtype) for v in model.variables]


def decode_text(model, program):
    step = functools.partial(decode.decode_one_token, model.decode_step, program)
    run, values = with_variables(model, step)
    return lowered(run, values, *decoding(model, program))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [name for name in MODELS if "dropout" not in name])
def test_prefill_and_decoding(h100, name, precision):
    check_generation(build(name, precision))


@pytest.mark.parametrize("name", PRESETS)
def test_prefill_and_decoding_with_a_preset(h100, name):
    check_generation(build_preset(name))


def check_generation(model):
    program = SAMPLE._replace(branches=False)
    assert "f64" not in decode_text(model, program)
    cache = decoding(model, program)[-1]
    run, values = with_variables(model, functools.partial(decode.prefill, model))
    row = np.zeros((BATCH,), "int32")
    assert "f64" not in lowered(run, values, cache, np.zeros((BATCH, 16), "int32"), row, row)
