"""Models go to files and come back the same: Keras's own, and model directories."""

import json
import os
import pkgutil
import subprocess
import sys
from importlib import import_module

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

from kgpt import GPT, ModelConfig, NextTokenLoss, SamplingConfig, Tokenizer, backend
from kgpt.checkpoints.generation_config import load_sampling
from kgpt.checkpoints.pretrained import (
    load_config,
    load_model,
    load_weights,
    save_model,
)
from kgpt.errors import CheckpointError, KgptError
from kgpt.keras_registration import CLASSES, register_with_keras
from tests.model.models import KINDS, SMALL, model_of

pytestmark = pytest.mark.backend

FAMILIES = {"gpt2": "gpt2", "gpt2-no-bias": "gpt2", "llama": "llama", "one-kv-head": "llama"}


def run(model, ids):
    return keras.ops.convert_to_numpy(model(ids))


def test_keras_file_round_trip(kind, ids, tmp_path):
    model = model_of(kind)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.config == model.config
    np.testing.assert_array_equal(run(again, ids), run(model, ids))


@pytest.mark.portable
def test_a_trained_keras_file_goes_on_training(tmp_path):
    """Compiled state, optimizer and dropout counter included: the next loss is the same."""
    from kgpt import AdamW

    ids = np.random.default_rng(2).integers(0, 37, (4, 12)).astype("int32")
    model = GPT(ModelConfig(**{**SMALL, "num_layers": 1}, dropout=0.1), seed=4)
    model.compile(optimizer=AdamW(1e-2, no_decay=("mlp",)), loss=NextTokenLoss(0.1, chunk=7))
    model.fit(ids, ids, epochs=2, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.optimizer.no_decay == ("mlp",)
    assert (again.loss.label_smoothing, again.loss.chunk) == (0.1, 7)
    losses = [
        m.fit(ids, ids, epochs=3, shuffle=False, verbose=0).history["loss"] for m in (model, again)
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


FRESH = """
import sys
import kgpt
assert "keras" not in sys.modules
kgpt.AdamW  # imports Keras, but no model
import keras
model = keras.saving.load_model(sys.argv[1])
print(model.generate([1, 2], max_tokens=3, temperature=0), type(model.optimizer).__name__)
"""


@pytest.mark.portable
def test_a_keras_file_opens_in_a_fresh_process(tmp_path):
    from kgpt import AdamW

    model = GPT(ModelConfig(**SMALL), seed=4)
    model.compile(optimizer=AdamW(1e-2), loss=NextTokenLoss())
    model.save(tmp_path / "model.keras")
    run = subprocess.run(
        [sys.executable, "-c", FRESH, tmp_path / "model.keras"],
        env=os.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.strip() == f"{model.generate([1, 2], max_tokens=3, temperature=0)} AdamW"


def test_keras_knows_every_class_that_a_file_may_name():
    for package in ("kgpt.model", "kgpt.training"):
        for module in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
            import_module(module.name)
    known = keras.saving.get_custom_objects()
    made = {name: cls for name, cls in known.items() if name.startswith("kgpt>")}
    assert set(made) == {f"kgpt>{name}" for names in CLASSES.values() for name in names}
    for module, names in CLASSES.items():
        assert {made[f"kgpt>{name}"].__module__ for name in names} == {module}
    register_with_keras()  # takes no class's place
    assert made.items() <= keras.saving.get_custom_objects().items()


@pytest.mark.parametrize("kind", list(KINDS))
def test_model_directory_round_trip(kind, ids, tmp_path):
    model = model_of(kind)
    save_model(model, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["model_type"] == FAMILIES.get(kind, values["model_type"])
    loaded = load_model(tmp_path)
    for name in ("max_length", "norm_epsilon", "rope_theta", "sliding_window", "tie_embeddings"):
        assert getattr(loaded.config, name) == getattr(model.config, name)
    np.testing.assert_array_equal(run(loaded, ids), run(model, ids))


def test_a_model_that_has_generated_is_saved_as_before(tmp_path, ids):
    """Generation may lay matrices out anew in memory; files do not tell."""
    before, after = tmp_path / "before", tmp_path / "after"
    model = GPT(ModelConfig(**SMALL), seed=2)
    save_model(model, before)
    backend.transpose_weights_inplace(model.kernels)
    save_model(model, after)
    weights = (folder / "model.safetensors" for folder in (before, after))
    assert next(weights).read_bytes() == next(weights).read_bytes()
    load_weights(model, before)
    np.testing.assert_array_equal(run(model, ids), run(load_model(before), ids))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(run(again, ids), run(model, ids))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_file_has_the_names_that_transformers_reads(kind, tmp_path):
    model = model_of(kind)
    save_model(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    size = sum(tensor.size for tensor in tensors.values())
    assert size == model.config.num_parameters()
    if kind == "gpt2":
        assert tensors["transformer.h.1.attn.c_attn.weight"].shape == (32, 96)
        assert "lm_head.weight" not in tensors  # tied
    else:
        assert tensors["model.layers.1.self_attn.k_proj.weight"].shape == (16, 32)
        assert tensors["model.layers.0.mlp.gate_proj.weight"].shape == (48, 32)
        assert "lm_head.weight" in tensors


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_weights_are_saved_whole_whatever_the_precision(precision, tmp_path):
    model = GPT(ModelConfig(**SMALL), seed=1, dtype=precision)
    save_model(model, tmp_path)
    expected = model.token_embedding.variable.numpy()
    again = load_model(tmp_path, dtype=precision)
    np.testing.assert_array_equal(again.token_embedding.variable.numpy(), expected)


def test_tokenizer_and_sampling_come_along(tmp_path):
    tokenizer = Tokenizer.of_bytes()
    model = GPT(ModelConfig(**{**SMALL, "vocab_size": tokenizer.vocab_size}))
    wanted = SamplingConfig(temperature=0.7, top_k=5, top_p=0.9, repetition_penalty=1.2)
    save_model(model, tmp_path, tokenizer, sampling=wanted)
    assert Tokenizer.load(tmp_path).fingerprint == tokenizer.fingerprint
    loaded = load_sampling(tmp_path)
    for name in ("temperature", "top_k", "top_p", "repetition_penalty"):
        assert getattr(loaded, name) == getattr(wanted, name)
    save_model(model, tmp_path, tokenizer, sampling=SamplingConfig(temperature=0))
    assert load_sampling(tmp_path).temperature == 0


def test_damaged_directories_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_config(tmp_path)
    save_model(model_of("gpt2"), tmp_path)
    other = GPT(ModelConfig(**{**SMALL, "hidden_dim": 16}))
    with pytest.raises(CheckpointError, match=r"\[37, 32\].*\[37, 16\]"):
        load_weights(other, tmp_path)
    other = GPT(ModelConfig(**{**SMALL, "num_layers": 3}))
    with pytest.raises(CheckpointError, match=r"transformer\.h\.2"):
        load_weights(other, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(CheckpointError, match="'mamba'"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(KgptError, match="damaged"):
        load_config(tmp_path)
