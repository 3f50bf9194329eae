"""Training and generation on PyTorch's fake CUDA tensors, which need no GPU.

They refuse what mixes devices and what makes the host wait for the GPU: a read of a value or a
shape that depends on one. The gradients that PyTorch itself computes are left out; its engine needs
a driver.
"""

import functools

import keras
import pytest
from keras import ops

from kgpt import backend
from kgpt.backend import keras_internals
from kgpt.backend.attention_choice import AttentionDevice
from kgpt.generation import decode
from kgpt.generation.program import GENERAL
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
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="fake tensors of PyTorch"),
]

H100 = AttentionDevice("gpu", (9, 0))  # without Triton, which compiles FlexAttention
TURING = AttentionDevice("gpu", (7, 5))


@pytest.fixture(autouse=True, params=[H100])
def cuda(request, monkeypatch):
    """Everything is a fake tensor on a CUDA device."""
    import torch

    from kgpt.backend import torch_attention
    from tests.fake_cuda import fake_cuda

    monkeypatch.setattr(torch_attention, "attention_device", lambda device: request.param)
    with fake_cuda(), torch.no_grad():
        yield


def zeros(*shape, dtype="int32"):
    return ops.zeros(shape, dtype)


def assert_on_cuda(*trees):
    tensors = [leaf for tree in trees for leaf in keras.tree.flatten(tree)]
    assert {str(tensor.device) for tensor in tensors} == {"cuda:0"}


def check_training(model, monkeypatch):
    """Forward pass, loss, the loss's own gradient, clipping and the update of the weights."""
    gradients = []

    def custom_gradient(function):
        def call(*args):
            value, pullback = function(*args)
            gradients.extend(pullback(ops.ones_like(value)))
            return value

        return call

    def fused_adamw(*states, lr, **options):  # PyTorch has none for fake tensors
        assert_on_cuda(states, lr)

    monkeypatch.setattr(backend, "custom_gradient", custom_gradient)
    monkeypatch.setattr("torch._fused_adamw_", fused_adamw)
    ids = zeros(BATCH, model.config.max_length)
    hidden = model({"hidden_states_of": ids}, training=True)
    head = model.head.weight.variable
    weights = zeros(*ids.shape, dtype="float32")
    loss = model.loss.from_hidden_states(hidden, head, ids, weights)
    assert hidden.dtype == ops.zeros((), model.compute_dtype).dtype
    assert [(tuple(g.shape), g.dtype) for g in gradients] == [
        ((BATCH * ids.shape[1], model.config.hidden_dim), hidden.dtype),
        (tuple(head.shape), ops.zeros((), "float32").dtype),
    ]
    count_on_host(model.optimizer)
    model.optimizer.apply([ops.zeros_like(v) for v in model.trainable_variables])
    assert_on_cuda(hidden, loss, gradients, [v.value for v in model.variables])
    assert_on_cuda([v.value for v in model.optimizer.variables])


def count_on_host(optimizer):
    """As after the first step: the optimizer reads its step count from the device once."""
    count = keras_internals.micro_iterations(optimizer)
    count._count, count._version = 0, count.value._version


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_training(monkeypatch, name, precision):
    check_training(build(name, precision), monkeypatch)


@pytest.mark.parametrize("name", PRESETS)
def test_training_a_preset(monkeypatch, name):
    check_training(build_preset(name), monkeypatch)


def check_generation(model):
    """Prefill, and a decode step with every logits processor and warper, and log-probabilities."""
    program = GENERAL._replace(branches=False)
    params, progress, cache = decoding(model, program)
    row = zeros(BATCH)
    cache = decode.prefill(model, cache, zeros(BATCH, 16), row, row)
    step = functools.partial(decode.decode_one_token, model.decode_step, program)
    progress, cache = step(params, progress, cache)
    assert_on_cuda(progress, cache)
    assert {x.dtype for x in keras.tree.flatten(cache)} == {zeros(dtype=model.compute_dtype).dtype}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [name for name in MODELS if "dropout" not in name])
def test_prefill_and_decoding(name, precision):
    check_generation(build(name, precision))


@pytest.mark.parametrize("name", PRESETS)
def test_prefill_and_decoding_with_a_preset(name):
    check_generation(build_preset(name))


@pytest.mark.parametrize("cuda", [H100, TURING], indirect=True)
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_causal_attention(head_dim, dtype):
    for num_kv_heads in (4, 2):
        for window in (None, 100):
            query = zeros(BATCH, 256, 4, head_dim, dtype=dtype)
            key = zeros(BATCH, 256, num_kv_heads, head_dim, dtype=dtype)
            heads = backend.causal_attention(query, key, key, window)
            assert_on_cuda(heads)
            assert heads.shape == query.shape and heads.dtype == query.dtype


def test_two_devices_are_refused():
    import torch

    with pytest.raises(RuntimeError, match="device"):
        zeros(3) + torch.zeros(3, device="cpu")
