"""The NumPy reference of `kgpt verify` equals the one of the tests, and cached equals whole."""

import numpy as np
import pytest

from kgpt.config.parameters import parameter_shapes
from kgpt.model.attention import rotary_frequencies
from kgpt.verification.reference import Reference
from kgpt.verification.rope import rope_frequencies
from tests.model import reference as other
from tests.tiny import ARCHITECTURES, tiny_config

IDS = np.random.default_rng(1).integers(0, 259, (2, 12))
SCALINGS = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "llama3": {"factor": 8.0, "original_max_length": 16},
    "yarn": {"factor": 4.0, "original_max_length": 16},
}


def random_reference(architecture):
    config, rng = tiny_config(architecture), np.random.default_rng(0)
    return Reference(config, {path: rng.normal(0, 0.3, s) for path, s in parameter_shapes(config)})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_two_references_agree(architecture):
    model = random_reference(architecture)
    ours = model.logits(IDS)
    for row, ids in zip(ours, IDS, strict=True):
        theirs = other.logits(model.config, model.weights, ids)
        np.testing.assert_allclose(row, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("architecture", ["llama", "llama-window", "sinusoidal"])
def test_decoding_with_a_cache_gives_the_tokens_of_whole_passes(architecture):
    model, ids = random_reference(architecture), IDS[0, :4].tolist()
    tokens, logits = model.greedy(ids, 8, frozenset())
    whole = model.logits(np.array([ids + tokens[:-1]]))[0, 3:]
    np.testing.assert_allclose(logits, whole, rtol=1e-9, atol=1e-9)
    assert tokens == whole.argmax(-1).tolist()
    assert model.greedy(ids, 8, frozenset(tokens[2:3]))[0] == tokens[: tokens.index(tokens[2]) + 1]


@pytest.mark.parametrize("kind", SCALINGS)
def test_rope_scaling_equals_the_models(kind):
    config = tiny_config("llama", head_dim=16, rope_scaling={"type": kind, **SCALINGS[kind]})
    ours, magnitude = rope_frequencies(config)
    theirs = rotary_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    np.testing.assert_allclose(ours, theirs.frequencies, rtol=1e-6)
    assert magnitude == pytest.approx(theirs.magnitude)
