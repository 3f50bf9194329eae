"""float32 means float32 on every backend and device; tensorfloat32 is a precision of its own."""

import re

import keras
import numpy as np
import pytest

from kgpt import backend
from kgpt.config import TrainConfig
from kgpt.generation.loading import build_for_inference
from kgpt.model.gpt import GPT
from kgpt.training.pretraining import build_model
from tests.tiny import tiny_gpt2_config, tiny_model
from tests.training.tiny_runs import make_config

pytestmark = pytest.mark.backend
TF32 = {"float32": False, "int8": False, "tensorfloat32": True, "bfloat16": True, "float16": True}
IDS = np.arange(12, dtype="int32").reshape(1, 12)


def tf32_is_allowed() -> bool:
    """What the backend itself says of float32 products on a GPU."""
    if backend.name == "jax":
        import jax

        return {"highest": False, "tensorfloat32": True, None: True}[
            jax.config.jax_default_matmul_precision
        ]
    if backend.name == "tensorflow":
        import tensorflow as tf

        return tf.config.experimental.tensor_float_32_execution_enabled()
    import torch

    allowed = {torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32}
    allowed.add(torch.get_float32_matmul_precision() != "highest")
    assert len(allowed) == 1
    return allowed.pop()


@pytest.mark.parametrize("precision", TF32)
def test_the_backend_multiplies_as_the_precision_says(precision):
    for before in ("float32", "tensorfloat32"):
        backend.set_precision(before)
        backend.set_precision(precision)
        assert tf32_is_allowed() == TF32[precision]


@pytest.mark.parametrize("precision", ["float32", "tensorfloat32", "bfloat16", "float16"])
def test_training_sets_its_precision(precision):
    train = {"precision": precision}
    model = {"vocab_size": 30}
    backend.set_precision("float32" if TF32[precision] else "tensorfloat32")
    built = build_model(make_config("data", train=train, model=model))
    assert tf32_is_allowed() == TF32[precision]
    compute = "float32" if precision == "tensorfloat32" else precision
    assert built.dtype_policy.compute_dtype == compute
    assert built.dtype_policy.variable_dtype == "float32"
    assert TrainConfig(precision=precision).precision == precision


@pytest.mark.parametrize("dtype", TF32)
def test_a_model_loaded_for_inference_sets_its_precision(dtype):
    backend.set_precision("float32" if TF32[dtype] else "tensorfloat32")
    model = build_for_inference(lambda **options: GPT(tiny_gpt2_config(), **options), dtype)
    assert tf32_is_allowed() == TF32[dtype]
    compute = dtype if dtype in ("bfloat16", "float16") else "float32"
    assert model.dtype_policy.compute_dtype == compute


def test_on_a_cpu_both_compute_the_same():
    if backend.device()[0] != "cpu":
        pytest.skip("a GPU rounds to TF32")
    model = tiny_model()
    logits = []
    for precision in ("float32", "tensorfloat32"):
        backend.set_precision(precision)
        logits.append(keras.ops.convert_to_numpy(model(IDS)))
    np.testing.assert_array_equal(*logits)


@pytest.mark.skipif(backend.name != "jax", reason="the attribute is JAX's")
@pytest.mark.parametrize(
    ("precision", "wanted"), [("float32", "HIGHEST"), ("tensorfloat32", "HIGH"), ("bfloat16", None)]
)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_every_product_of_a_step_is_lowered_with_it(architecture, precision, wanted):
    import jax

    backend.set_precision(precision)
    dtype = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    model = tiny_model(architecture, dtype=dtype)
    values = [variable.value for variable in model.trainable_variables]

    def loss(values):
        logits, _ = model.stateless_call(
            values, [v.value for v in model.non_trainable_variables], IDS
        )
        return keras.ops.sum(keras.ops.cast(logits, "float32"))

    text = jax.jit(jax.grad(loss)).lower(values).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) > 20
    found = (
        {re.search(r"precision = \[(\w+), \w+\]", line)[1] for line in products}
        if wanted
        else {"precision = [HIGH" in line for line in products}
    )
    assert found == ({wanted} if wanted else {False})
