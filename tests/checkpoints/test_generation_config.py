"""The default sampling of a model: what other software writes, and what stays in a copy."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.checkpoints.convert import copy_model
from kgpt.checkpoints.generation_config import SHARED, load_sampling
from kgpt.checkpoints.pretrained import write_config
from kgpt.checkpoints.weights import write_weights
from kgpt.config import ModelConfig, SamplingConfig
from kgpt.config.parameters import parameter_shapes
from kgpt.text.tokenizer import Tokenizer

CONFIG = ModelConfig(num_layers=1, num_heads=2, hidden_dim=8, max_length=16, vocab_size=300)


SHAPES = dict(parameter_shapes(CONFIG))


def write_model(folder):
    """A model directory with zeros as weights; no backend is needed."""
    folder.mkdir()
    write_config(folder, CONFIG, Tokenizer.of_bytes())
    write_weights(folder, CONFIG, lambda path: np.zeros(SHAPES[path], "float32"), "float32")
    return folder / "generation_config.json"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {}),
        ({"top_k": None, "temperature": None, "max_new_tokens": None}, {}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_p": 0}, {"top_p": 1.0}),
        ({"max_new_tokens": -1}, {}),
        ({"repetition_penalty": 0, "typical_p": 0.0}, {}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"do_sample": False, "temperature": 0.7}, {"temperature": 0}),
    ],
)
def test_what_means_off_elsewhere_is_off(tmp_path, values, expected):
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    assert load_sampling(tmp_path) == SamplingConfig(**expected)


VALUES = st.fixed_dictionaries(
    {"eos_token_id": st.just([256, 257])},
    optional={
        "pad_token_id": st.integers(0, 99), "no_repeat_ngram_size": st.integers(0, 4),
        "max_new_tokens": st.integers(1, 99), "do_sample": st.booleans(),
        "temperature": st.floats(0.1, 2), "top_k": st.sampled_from([None, -1, 0, 50]),
    },
)  # fmt: skip


@given(values=VALUES)
def test_a_copy_keeps_every_value(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("models")
    source, out = folder / "a", folder / "b"
    out.mkdir()
    write_model(source).write_text(json.dumps(values))
    copy_model(source, out)
    assert json.loads((out / "generation_config.json").read_text()) == values
    assert load_sampling(out) == load_sampling(source)


def test_nothing_said_about_sampling_says_nothing(tmp_path):
    kept = json.loads(write_model(tmp_path / "model").read_text())
    assert not set(kept) & {*SHARED, "do_sample"}
