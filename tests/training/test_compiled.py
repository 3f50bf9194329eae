"""On PyTorch: regions of a training step compiled once, with eager results, and fused updates."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from kgpt import GPT, AdamW, ModelConfig, NextTokenLoss, TrainConfig, backend
from kgpt.backend.optimizer import optimizer_class as keras_optimizer_class
from kgpt.checkpoints.pretrained import path_below
from kgpt.training.optimizers import DecayMaskEMAMixin, make_optimizer
from tests.model.models import LLAMA, SMALL

pytestmark = [
    pytest.mark.backend,
    pytest.mark.skipif(backend.name != "torch", reason="about torch.compile"),
]
LAYERS = 3
LAYER_SHAPES = {
    "gpt2, dropout, checkpointing": ({**SMALL, "dropout": 0.2}, True, "float32"),
    "llama, grouped, window, bfloat16": ({**LLAMA, "sliding_window": 4}, False, "mixed_bfloat16"),
    "packed": (LLAMA, False, "float32"),
}


@pytest.fixture
def compilations(monkeypatch):
    """The graphs that torch.compile was given; they run as they are, differentiated ahead."""
    import torch
    from torch._dynamo.backends.registry import lookup_backend

    from kgpt.backend import torch_compile

    graphs = []

    def record(graph, inputs):
        graphs.append(graph)
        return lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(torch_compile, "TORCH_BACKEND", record)
    yield graphs
    torch._dynamo.reset()


def gradients(model, ids, packed=False):
    """Loss and gradients of a training step, as Keras computes them."""
    x = ops.convert_to_tensor(ids[:, :-1])
    if packed:
        segment_ids = ops.broadcast_to(ops.arange(x.shape[1]) // 5, x.shape)
        x = {"token_ids": x, "segment_ids": segment_ids}
    inputs = {"hidden_states_of": x}
    hidden = model(inputs, training=True)
    loss = model.compute_loss(inputs, ops.convert_to_tensor(ids[:, 1:]), hidden)
    loss.backward()
    found = {path_below(v): v.value.grad.clone() for v in model.trainable_variables}
    model.zero_grad()
    return float(loss.detach()), found


@pytest.mark.parametrize("kind", LAYER_SHAPES)
def test_compiled_equals_eager_and_compiles_once_for_all_layers(kind, compilations, monkeypatch):
    """Without graph breaks: `fullgraph` raises at one. The loss is compiled for the first chunk
    and for those that add to its gradient."""
    import torch

    shape, remat, dtype = LAYER_SHAPES[kind]
    config = ModelConfig(**{**shape, "num_layers": LAYERS})
    model = GPT(config, seed=2, gradient_checkpointing=remat, dtype=dtype)
    ids = np.random.default_rng(0).integers(0, 37, (2, 13)).astype("int32")
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # dropout as on a GPU
    results = []
    for compiled in (False, True):
        model.compile(optimizer="sgd", loss=NextTokenLoss(chunk=12), jit_compile=compiled)
        model.dropout_key.count.assign(0)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "torch.compile failed")
            results.append(gradients(model, ids, kind == "packed"))
    assert len(compilations) == 3
    (eager_loss, eager), (loss, compiled) = results
    assert loss == pytest.approx(eager_loss, rel=1e-5)
    for path, gradient in eager.items():
        torch.testing.assert_close(compiled[path], gradient, atol=1e-5, rtol=1e-4, msg=path)
    gradients(model, ids, kind == "packed")
    assert len(compilations) == 3


@pytest.mark.parametrize(("accumulation", "packed"), [(1, False), (2, True)])
def test_a_step_waits_for_nothing(accumulation, packed, monkeypatch):
    """It reads no tensor, and outside compiled code copies no number: on a GPU both would wait."""
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    from kgpt.backend import torch_compile

    seen, inside = [], []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._local_scalar_dense.default:
                seen.append("read")
            return function(*args, **(kwargs or {}))

    class Copies(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            is_new = function in (torch.as_tensor, torch.tensor) and not torch.is_tensor(args[0])
            if is_new and not inside:
                seen.append(args[0])
            return function(*args, **(kwargs or {}))

    def region(self, *args):
        inside.append(self)
        try:
            return self.function(*args)
        finally:
            inside.pop()

    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # dropout as on a GPU
    monkeypatch.setattr(torch_compile._Region, "__call__", region)
    config = TrainConfig(grad_accumulation=accumulation, ema_decay=0.9)
    model = GPT(ModelConfig(**{**LLAMA, "dropout": 0.1}), dtype="mixed_bfloat16")
    model.compile(optimizer=make_optimizer(config), loss=NextTokenLoss(), jit_compile=True)
    model.optimizer.build(model.trainable_variables)
    ids = ops.zeros((2, 12), "int32")
    x = {"token_ids": ids, "segment_ids": ids} if packed else ids
    model.train_step((x, ids))
    with Reads(), Copies():
        for _ in range(2):
            model.train_step((x, ids))
        assert not seen
        ops.convert_to_tensor(1.5)
        float(ids[0, 0])
    assert seen == [1.5, "read"]


def test_a_failed_compilation_leaves_training_eager(monkeypatch):
    from kgpt.backend import torch_compile

    def fail(graph, inputs):
        raise ValueError("no compiler")

    monkeypatch.setattr(torch_compile, "TORCH_BACKEND", fail)
    (double,) = backend.compile_regions([lambda x: x * 2])
    with pytest.warns(UserWarning, match="training is not compiled: .*no compiler"):
        assert double(ops.ones(3)).sum() == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert double(ops.ones(3)).sum() == 6


def test_many_shapes_are_not_all_compiled(compilations):
    (double,) = backend.compile_regions([lambda x: x * 2])
    for size in range(1, 12):
        assert double(ops.ones(size)).sum() == 2 * size
    assert len(compilations) == 8


class KerasAdamW(DecayMaskEMAMixin, keras_optimizer_class(keras.optimizers.AdamW)):
    """AdamW in Keras operations, not fused."""


@pytest.mark.parametrize("accumulation", [None, 2])
def test_fused_adamw_equals_keras_and_takes_its_state(accumulation):
    """The same updates, decay, clipping and EMA; the same state, which either goes on from."""
    options = {
        "learning_rate": 0.01, "weight_decay": 0.1, "global_clipnorm": 1.0, "beta_2": 0.99,
        "epsilon": 1e-8, "use_ema": True, "ema_momentum": 0.9, "no_decay": ("mlp/up$",),
        "gradient_accumulation_steps": accumulation, "name": "adamw",
    }  # fmt: skip
    pairs = []
    for kind in (AdamW, KerasAdamW):
        model = GPT(ModelConfig(**SMALL), seed=5)
        optimizer = kind(**options)
        optimizer.build(model.trainable_variables)
        pairs.append((model, optimizer))
    (model, fused), (_, plain) = pairs
    assert [v.path for v in fused.variables] == [v.path for v in plain.variables]
    noise = np.random.default_rng(1)
    for step in range(7):
        size = 10.0 ** (step - 8)  # at first near epsilon, later clipped
        grads = [
            size * noise.normal(size=v.shape).astype("float32") for v in model.trainable_variables
        ]
        for model, optimizer in pairs:
            optimizer.learning_rate = 0.01 / (step + 1)
            optimizer.apply([ops.convert_to_tensor(g) for g in grads], model.trainable_variables)
        for ours, theirs in zip(model_state(*pairs[0]), model_state(*pairs[1]), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-7)
        if step == 3:  # each goes on from the other's state, as a resumed run does
            exchanged = [[v.numpy().copy() for v in o.variables] for _, o in pairs]
            for (_, optimizer), state in zip(pairs, reversed(exchanged), strict=True):
                state[0] += 4  # the step count, which is kept on the host, too
                for variable, value in zip(optimizer.variables, state, strict=True):
                    variable.assign(value)


def model_state(model, optimizer):
    return [v.numpy() for v in (*model.trainable_variables, *optimizer.variables)]
