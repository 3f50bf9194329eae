"""Models converted for inference: what they compute, their size, and what they release."""

import gc
import importlib
import json
import weakref

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt import GPT, Tokenizer, backend
from kgpt.checkpoints.convert import quantize_model
from kgpt.checkpoints.pretrained import load_model, save_model
from kgpt.cli import main
from kgpt.config import ModelConfig
from kgpt.generation.loading import inference_dtype, load_for_inference
from kgpt.generation.scheduler import generate
from kgpt.generation.sequence import Request
from kgpt.model.linear import FloatWeight, Linear, TransposedWeight
from kgpt.model.quantization import (
    dequantize_int4,
    prepare_for_inference,
    quantize,
    quantize_int4,
    quantize_int8,
)
from kgpt.model.quantized_weight import Int4Weight, Int8Weight, PrepackedWeight
from tests.generation.models import greedy
from tests.model.models import KINDS

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model directory, with a tokenizer of bytes, whose texts are not all alike."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.of_bytes()
    config = {**KINDS["llama"], "vocab_size": tokenizer.vocab_size, "max_length": 64}
    model = GPT(ModelConfig(**config), seed=6)
    for number, variable in enumerate(model.trainable_variables):
        noise = np.random.default_rng(number).normal(0, 0.1, variable.shape)
        variable.assign(variable + noise.astype("float32"))
    save_model(model, folder, tokenizer)
    return folder


@given(st.integers(1, 5), st.integers(0, 2**31), st.sampled_from([0.0, 1e-20, 1.0, 1e20]))
def test_int8_matmul_equals_its_formula(rows, seed, size):
    """In numpy: rows and outputs rounded to integers of at most 127, their sums scaled back."""
    noise = np.random.default_rng(seed)
    x = (size * noise.normal(size=(rows, 48))).astype("float32")
    q, scale = quantize_int8(noise.normal(size=(32, 48)).astype("float32"))
    bias = noise.normal(size=32).astype("float32")
    largest = np.maximum(np.abs(x).max(1, keepdims=True), np.float32(1e-30))
    codes = np.rint(x * (np.float32(127) / largest)).astype("int64")
    want = (codes @ q.T.astype("int64")) * (scale[:, 0] * (largest / 127)) + bias
    for weight in forms(Int8Weight, q, scale[:, 0]):
        got = weight.matmul(keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(bias))
        np.testing.assert_allclose(keras.ops.convert_to_numpy(got), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("inputs", [48, 3072])
@pytest.mark.parametrize("bits", [None, 7])
def test_the_largest_int8_sums_are_exact(inputs, bits, monkeypatch):
    """On this CPU, and as on one without VNNI, where oneDNN multiplies only 7-bit codes exactly."""
    if bits is not None:
        if keras.backend.backend() != "torch":
            pytest.skip("oneDNN is PyTorch's")
        monkeypatch.setattr("kgpt.backend.torch_quantized.exact_code_bits", lambda: bits)
    noise = np.random.default_rng(0)
    q, codes = (noise.integers(-127, 128, (rows, inputs)) for rows in (32, 5))
    q[0], codes[0], codes[1] = 127, 127, -127
    codes[:, 0] = 127  # so that x is rounded to these codes
    scale = noise.random(32).astype("float32")
    chosen = importlib.import_module(f"kgpt.backend.{keras.backend.backend()}")
    sums = chosen.int8_matmul(*(keras.ops.convert_to_tensor(x.astype("int8")) for x in (codes, q)))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(sums), codes @ q.T)
    want = (codes @ q.T) * (scale.astype("float64") / 127)
    for weight in forms(Int8Weight, q.astype("int8"), scale):
        got = weight.matmul(keras.ops.convert_to_tensor((codes / 127).astype("float32")))
        got = keras.ops.convert_to_numpy(got)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * np.abs(want).max())


def forms(kind, q, scale):
    """A quantized weight as it is, and packed where the backend's library has a layout for it."""
    weight = kind(*(keras.ops.convert_to_tensor(part) for part in (q, scale)))
    packed = weight.prepacked()
    return [weight] if packed is None else [weight, packed]


@given(st.integers(1, 5), st.integers(0, 2**31), st.booleans())
def test_int4_matmul_equals_its_formula(rows, seed, biased):
    """In numpy: groups of 32 inputs, each with a scale of its own.

    Packed, all is bfloat16 on PyTorch, and widened to int8 on others.
    """
    noise = np.random.default_rng(seed)
    x = noise.normal(size=(rows, 1, 64)).astype("float32")
    quantized = quantize_int4(noise.normal(size=(48, 64)).astype("float32"))
    bias = noise.normal(size=48).astype("float32")
    want = x @ dequantize_int4(*quantized).T + (bias if biased else 0)
    for weight, error in zip(forms(Int4Weight, *quantized), (1e-5, 0.5), strict=False):
        got = weight.matmul(keras.ops.convert_to_tensor(x), bias if biased else None)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(got), want, rtol=1e-4, atol=error)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="its int4 product is in bfloat16")
def test_a_token_times_int4_is_the_same_alone_and_in_a_batch():
    """Packed: integers are summed exactly, whatever the number of rows."""
    noise = np.random.default_rng(0)
    quantized = quantize_int4(noise.normal(size=(48, 64)).astype("float32"))
    rows = noise.normal(size=(40, 64)).astype("float32")
    weight = forms(Int4Weight, *quantized)[-1]
    together, alone = (
        keras.ops.convert_to_numpy(weight.matmul(keras.ops.convert_to_tensor(x)))
        for x in (rows, rows[3:4])
    )
    np.testing.assert_array_equal(together[3:4], alone)
    want = rows @ dequantize_int4(*quantized).T
    assert np.abs(together - want).max() < 0.02 * np.abs(want).max()


@pytest.mark.parametrize("kind", [Int8Weight, Int4Weight])
def test_a_token_alone_and_in_a_batch_gives_the_same_bits(kind):
    noise = np.random.default_rng(0)
    matrix = noise.normal(size=(48, 96)).astype("float32")
    x = noise.normal(size=(7, 96)).astype("float32")
    q, scale = (quantize_int8 if kind is Int8Weight else quantize_int4)(matrix)
    weight = forms(kind, q, scale[:, 0] if kind is Int8Weight else scale)[-1]
    multiply = backend.jit(weight.matmul)
    together = keras.ops.convert_to_numpy(multiply(x))
    for row, want in zip(x, together, strict=True):
        alone = keras.ops.convert_to_numpy(multiply(row[None]))[0]
        np.testing.assert_array_equal(alone, want)


@given(st.integers(1, 9), st.sampled_from([1, 32, 33]), st.booleans(), st.integers(0, 2**31))
def test_a_transposed_weight_multiplies_alike(rows, width, biased, seed):
    noise = np.random.default_rng(seed)
    shapes = (rows, 48), (48, width), (width,)
    x, kernel, bias = (noise.normal(size=shape).astype("float32") for shape in shapes)
    transpose = keras.ops.convert_to_tensor(np.ascontiguousarray(kernel.T))
    packed = backend.prepack_weight(transpose)
    tensors = [keras.ops.convert_to_tensor(part) for part in (x, kernel, bias)]
    want = x.astype("float64") @ kernel + (bias if biased else 0)
    for weight in (
        FloatWeight(tensors[1]),
        TransposedWeight(transpose),
        *([] if packed is None else [TransposedWeight(packed)]),
    ):  # fmt: skip
        multiply = backend.jit(
            lambda x, bias, weight=weight: weight.matmul(x, bias if biased else None)
        )
        got = keras.ops.convert_to_numpy(multiply(tensors[0], tensors[2]))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 8])
def test_a_transposed_weight_multiplies_alike_in_bfloat16(rows):
    noise = np.random.default_rng(0)
    x, transpose = (
        keras.ops.cast(noise.normal(size=shape), "bfloat16") for shape in ((rows, 48), (33, 48))
    )
    packed = backend.prepack_weight(transpose)
    converted = TransposedWeight(transpose if packed is None else packed)
    multiply = backend.jit(lambda x: keras.ops.cast(converted.matmul(x), "float32"))
    floats = [
        keras.ops.convert_to_numpy(keras.ops.cast(part, "float32")) for part in (x, transpose)
    ]
    got = keras.ops.convert_to_numpy(multiply(x))
    np.testing.assert_allclose(got, floats[0] @ floats[1].T, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("kind", ["gpt2", pytest.param("llama", marks=pytest.mark.portable)])
def test_transposed_weights_generate_the_same_text(tmp_path, kind):
    """Also where the weights are transposed in place, or not at all."""
    made = GPT(ModelConfig(**{**KINDS[kind], "initializer_range": 0.3}), seed=6)
    save_model(made, tmp_path)
    converted, model = load_for_inference(tmp_path), load_model(tmp_path)
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (3, 16)).astype("int32")
    got, want = (
        keras.ops.convert_to_numpy(backend.jit(m, m.variables)(ids)) for m in (converted, model)
    )
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert converted.count_params() <= model.count_params()
    requests = [Request(ids[0, :length].tolist(), greedy(12)) for length in (1, 5, 16)]
    texts = [[job.token_ids for job in generate(m, requests)] for m in (converted, model)]
    assert texts[0] == texts[1]
    assert len(set(map(tuple, texts[0]))) > 1


def test_int8_logits_are_near_the_float_logits(folder):
    ids = np.random.default_rng(0).integers(0, 256, (2, 24)).astype("int32")
    converted, floats = load_for_inference(folder, "int8"), load_model(folder)
    got, want = (keras.ops.convert_to_numpy(model(ids)) for model in (converted, floats))
    assert 0 < np.linalg.norm(got - want) < 0.05 * np.linalg.norm(want)


def test_a_batch_generates_what_each_prompt_does_alone(folder):
    model = load_for_inference(folder, "int8")
    noise = np.random.default_rng(1)
    requests = [
        Request(noise.integers(0, 256, length).tolist(), greedy(20)) for length in (1, 5, 17, 30)
    ]
    together = [job.token_ids for job in generate(model, requests)]
    assert together == [generate(model, [request])[0].token_ids for request in requests]
    assert len(set(map(tuple, together))) > 1


@pytest.mark.parametrize("tied", [True, False])
def test_int8_takes_a_quarter_of_the_memory(tmp_path, tied):
    config = ModelConfig(
        vocab_size=512, max_length=8, num_layers=2, num_heads=2, hidden_dim=128, tie_embeddings=tied
    )
    save_model(GPT(config, seed=1), tmp_path)
    floats, converted = (
        sum(keras.ops.convert_to_numpy(v).nbytes for v in model.variables)
        for model in (load_model(tmp_path), load_for_inference(tmp_path, "int8"))
    )
    assert converted < 0.28 * floats


@pytest.mark.parametrize("name", ["int8", "int4", "transposed"])
def test_converting_a_model_releases_its_float_weights(name):
    """TensorFlow has a record of variables beside Keras's, PyTorch one of tensors."""
    model = GPT(ModelConfig(**KINDS["llama"]), seed=1)
    ids = np.random.default_rng(0).integers(0, 37, (2, 24)).astype("int32")
    before = keras.ops.convert_to_numpy(model(ids))
    kernels = [weakref.ref(part) for kernel in model.kernels for part in (kernel, kernel.value)]
    assert len(kernels) == 2 * 4 * len(model.blocks)
    model.convert_weights(name)
    gc.collect()
    assert [kernel() for kernel in kernels] == [None] * len(kernels)
    assert not model.kernels
    after = keras.ops.convert_to_numpy(model(ids))
    tolerance = {"transposed": 1e-5, "int8": 0.05, "int4": 0.3}[name] * np.abs(before).max()
    np.testing.assert_allclose(after, before, atol=tolerance)


@pytest.mark.parametrize("name", ["int8", "int4", "transposed"])
def test_float_weights_are_released_a_block_at_a_time(name, monkeypatch):
    """When the last block is converted, those of the first are gone."""
    model = GPT(ModelConfig(**KINDS["llama"]), seed=1)
    kernels = [weakref.ref(linear.variable.value) for linear in model.blocks[0].linears]
    last, alive = model.linears[-1], []
    convert = Linear.convert

    def counting(linear, to):
        if linear is last:
            gc.collect()
            alive.extend(kernel() is not None for kernel in kernels)
        convert(linear, to)

    monkeypatch.setattr(Linear, "convert", counting)
    model.convert_weights(name)
    assert alive == [False] * len(kernels)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_converting_equals_loading_converted(tmp_path, kind):
    """`quantize` and `prepare_for_inference` on a model, and while it is loaded."""
    made = GPT(ModelConfig(**KINDS[kind]), seed=6)
    save_model(made, tmp_path)
    ids = np.random.default_rng(0).integers(0, 37, (2, 24)).astype("int32")
    for convert, dtype in ((quantize, "int8"), (prepare_for_inference, "float32")):
        model = load_model(tmp_path)
        convert(model)
        model.prepack_weights()
        loaded = load_for_inference(tmp_path, dtype)
        assert [v.path for v in model.variables] == [v.path for v in loaded.variables]
        got, want = (keras.ops.convert_to_numpy(m(ids)) for m in (model, loaded))
        np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantized_directory_runs_as_it_is_stored(folder, tmp_path, monkeypatch, bits):
    """No float of a matrix is read, and the model is the one quantized as it is loaded."""
    quantize_model(folder, tmp_path, bits)
    ids = np.random.default_rng(0).integers(0, 256, (2, 24)).astype("int32")
    want, dequantized = (
        keras.ops.convert_to_numpy(load_for_inference(*source)(ids))
        for source in ((folder, f"int{bits}"), (tmp_path, "float32"))
    )

    def refuse(self):
        raise AssertionError(f"{self.q} is dequantized")

    monkeypatch.setattr("kgpt.checkpoints.quantized.QuantizedEntry.read", refuse)
    got = keras.ops.convert_to_numpy(load_for_inference(tmp_path)(ids))
    np.testing.assert_array_equal(got, want)
    assert 0 < np.linalg.norm(got - dequantized) < 0.05 * np.linalg.norm(want)


def test_auto_is_the_format_of_the_directory(folder, tmp_path):
    (tmp_path / "config.json").write_text('{"kgpt": {"quantization": {"bits": 4}}}')
    assert [inference_dtype(path) for path in (folder, tmp_path)] == ["float32", "int4"]
    assert inference_dtype(tmp_path, "float32") == "float32"


def test_every_matrix_is_a_variable_of_the_model(folder):
    """What is compiled takes those as arguments; as constants they would be there twice."""
    model = load_for_inference(folder, "int8")
    matrices = [v for v in model.variables if len(v.shape) == 2]
    packed = [linear for linear in model.linears if isinstance(linear.weight, PrepackedWeight)]
    assert all(v.dtype == "int8" for v in matrices)
    assert len(matrices) == (1 if packed else 2 + 4 * 2)


def test_the_dtype_flag_takes_int8(folder, monkeypatch, capfd):
    monkeypatch.setattr("kgpt.cli.generate.prepare_process", lambda *_: None)
    monkeypatch.setattr("kgpt.cli.generate.silence_native_code", lambda: None)
    command = ["generate", "--model", str(folder), "--prompt", "one", "--max-tokens", "5"]
    with pytest.raises(SystemExit) as ending:
        main([*command, "--dtype", "int8", "--temperature", "0", "--json"])
    assert ending.value.code in (0, None)
    assert json.loads(capfd.readouterr().out)
    with pytest.raises(SystemExit) as ending:
        main([*command, "--dtype", "int3"])
    assert ending.value.code == 2
    assert "int3" in capfd.readouterr().err
