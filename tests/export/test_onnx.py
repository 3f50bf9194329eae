"""The ONNX graph in onnxruntime gives kgpt's logits, at once and step by step."""

import keras
import numpy as np
import pytest

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from kgpt.checkpoints.pretrained import save_model  # noqa: E402
from kgpt.errors import UsageError  # noqa: E402
from kgpt.export.onnx import export_onnx  # noqa: E402
from kgpt.text.tokenizer import Tokenizer  # noqa: E402
from tests.tiny import tiny_model  # noqa: E402

LLAMA = {"position": "rotary", "norm": "rms", "activation": "swiglu", "bias": False}
SHAPES = {
    "gpt2": {},
    "no-biases": {"bias": False, "tie_embeddings": False, "activation": "gelu"},
    "llama": {**LLAMA, "num_kv_heads": 2},
    "qwen3": {**LLAMA, "num_kv_heads": 1, "qk_norm": True, "qkv_bias": True, "bias": True},
    "window": {**LLAMA, "sliding_window": 4},
    "yarn": {**LLAMA, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_length": 16}},
    "sinusoidal": {"position": "sinusoidal"},
}
IDS = np.random.default_rng(0).integers(0, 259, (2, 12))


@pytest.fixture(params=SHAPES)
def exported(request, tmp_path):
    model = tiny_model(seed=2, noise=0.2, initializer_range=0.3, **SHAPES[request.param])
    (tmp_path / "model").mkdir()
    (tmp_path / "onnx").mkdir()
    save_model(model, tmp_path / "model", Tokenizer.of_bytes())
    return model, tmp_path


def run(session, config, ids, past=None):
    batch, tokens = ids.shape
    empty = np.zeros((batch, config.num_kv_heads, 0, config.head_dim), "float32")
    names = [f"{i}.{part}" for i in range(config.num_layers) for part in ("key", "value")]
    past = past or [empty] * len(names)
    length = past[0].shape[2]
    feed = {
        "input_ids": ids.astype("int64"),
        "attention_mask": np.ones((batch, length + tokens), "int64"),
        "position_ids": np.tile(np.arange(length, length + tokens), (batch, 1)),
        **{f"past_key_values.{name}": value for name, value in zip(names, past, strict=True)},
    }
    logits, *present = session.run(["logits", *(f"present.{name}" for name in names)], feed)
    return logits, present


def test_the_graph_agrees_at_once_and_in_cached_steps(exported):
    model, folder = exported
    export_onnx(folder / "model", folder / "onnx")
    session = onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"))
    expected = keras.ops.convert_to_numpy(model(IDS))
    whole, _ = run(session, model.config, IDS)
    np.testing.assert_allclose(whole, expected, atol=1e-4)
    _, past = run(session, model.config, IDS[:, :7])
    for place in range(7, 12):
        logits, past = run(session, model.config, IDS[:, place : place + 1], past)
        np.testing.assert_allclose(logits[:, 0], expected[:, place], atol=1e-4)


def test_padding_on_the_left_changes_nothing(exported):
    model, folder = exported
    export_onnx(folder / "model", folder / "onnx")
    session = onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"))
    config = model.config
    empty = np.zeros((2, config.num_kv_heads, 0, config.head_dim), "float32")
    mask = np.ones((2, 12), "int64")
    mask[1, :5] = 0
    ids = IDS.copy()
    ids[1, 5:] = IDS[1, :7]
    feed = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": np.maximum(mask.cumsum(axis=1) - 1, 0),
        **{f"past_key_values.{i}.{part}": empty for i in range(2) for part in ("key", "value")},
    }
    logits = session.run(["logits"], feed)[0]
    expected = keras.ops.convert_to_numpy(model(IDS))
    np.testing.assert_allclose(logits[1, 5:], expected[1, :7], atol=1e-4)


def test_float16_halves_the_file(tmp_path):
    for name in ("model", "wide", "narrow"):
        (tmp_path / name).mkdir()
    model = tiny_model(num_layers=1, hidden_dim=64)
    save_model(model, tmp_path / "model", Tokenizer.of_bytes())
    export_onnx(tmp_path / "model", tmp_path / "wide")
    export_onnx(tmp_path / "model", tmp_path / "narrow", "float16")
    wide, narrow = (tmp_path / name / "model.onnx" for name in ("wide", "narrow"))
    assert narrow.stat().st_size < 0.6 * wide.stat().st_size
    session = onnxruntime.InferenceSession(str(narrow))
    expected = keras.ops.convert_to_numpy(model(IDS))
    np.testing.assert_allclose(run(session, model.config, IDS)[0], expected, atol=0.01)
    with pytest.raises(UsageError, match="bfloat16"):
        export_onnx(tmp_path / "model", tmp_path / "wide", "bfloat16")
