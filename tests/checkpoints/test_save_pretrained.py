"""`from_pretrained` and `save_pretrained`: round trips, sources, and folders left untouched."""

import keras
import numpy as np
import pytest

from kgpt.checkpoints import hub
from kgpt.checkpoints.generation_config import load_sampling
from kgpt.checkpoints.pretrained import (
    from_pretrained,
    path_below,
    resolve_source,
    save_pretrained,
)
from kgpt.config import ModelConfig, SamplingConfig
from kgpt.errors import RunError, UsageError
from kgpt.model.gpt import GPT
from kgpt.runs import Run
from kgpt.text.tokenizer import Tokenizer

pytestmark = [pytest.mark.backend, pytest.mark.portable]
IDS = np.arange(10)[None]


@pytest.fixture(scope="module")
def model():
    return GPT(ModelConfig(vocab_size=259, max_length=16, num_layers=1, num_heads=2, hidden_dim=8))


def logits(model):
    return keras.ops.convert_to_numpy(model(IDS))


def test_a_saved_model_is_loaded(model, tmp_path):
    sampling = SamplingConfig(temperature=0.5)
    save_pretrained(model, tmp_path / "deep" / "out", Tokenizer.of_bytes(), sampling)
    np.testing.assert_array_equal(logits(from_pretrained(tmp_path / "deep" / "out")), logits(model))
    assert Tokenizer.load(tmp_path / "deep" / "out").fingerprint == Tokenizer.of_bytes().fingerprint
    assert load_sampling(tmp_path / "deep" / "out") == sampling


def test_dtype_and_device(model, tmp_path):
    save_pretrained(model, tmp_path / "out")
    loaded = from_pretrained(str(tmp_path / "out"), dtype="bfloat16", device="cpu:0")
    assert {v.dtype for v in loaded.trainable_variables if len(v.shape) > 1} == {"bfloat16"}
    np.testing.assert_allclose(logits(loaded), logits(model), atol=0.02)


def test_a_loaded_model_is_trained_and_saved_again(model, tmp_path):
    save_pretrained(model, tmp_path / "out")
    loaded = from_pretrained(tmp_path / "out")
    for variable in loaded.trainable_variables:
        variable.assign(variable.numpy() + 1)
    save_pretrained(loaded, tmp_path / "out")
    before = {path_below(v): v.numpy() for v in model.trainable_variables}
    for variable in from_pretrained(tmp_path / "out").trainable_variables:
        np.testing.assert_array_equal(variable.numpy(), before[path_below(variable)] + 1)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_runs_and_their_steps_are_sources(model, tmp_path, monkeypatch):
    monkeypatch.setenv("KGPT_RUNS", str(tmp_path))
    run = Run(tmp_path / "demo")
    run.write_config("model: {}\n")
    for step in (5, 10):
        save_pretrained(model, run.checkpoint_path(step))
    run.set_pointer("best", 5)
    assert resolve_source("demo") == run.checkpoint_path(5)
    assert resolve_source("demo@10") == run.checkpoint_path(10)
    with pytest.raises(RunError, match="no checkpoint 7; it has: 5, 10"):
        resolve_source("demo@7")


def test_a_hub_id_is_downloaded(model, tmp_path, monkeypatch):
    save_pretrained(model, tmp_path / "snapshot")
    requested = []
    monkeypatch.setattr(
        hub, "download", lambda name: requested.append(name) or tmp_path / "snapshot"
    )
    np.testing.assert_array_equal(logits(from_pretrained("someone/model@main")), logits(model))
    assert requested == ["someone/model@main"]
    with pytest.raises(RunError, match="There is no run 'nothing'"):
        from_pretrained("nothing")
    with pytest.raises(RunError):
        from_pretrained("./someone/model")


@pytest.mark.parametrize("content", ["notes.py", "config.json/x", "folder/config.json"])
def test_other_folders_are_not_replaced(content, model, tmp_path):
    file = tmp_path / "out" / content
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    with pytest.raises(UsageError, match="not a model directory and not empty"):
        save_pretrained(model, tmp_path / "out")
    assert file.read_text() == "precious"


def test_a_failed_save_leaves_the_former_model(model, tmp_path, monkeypatch):
    save_pretrained(model, tmp_path / "out")

    def fail(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("kgpt.checkpoints.pretrained.write_weights", fail)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(model, tmp_path / "out", Tokenizer.of_bytes())
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    np.testing.assert_array_equal(logits(from_pretrained(tmp_path / "out")), logits(model))
