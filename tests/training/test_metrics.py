"""kgpt.Perplexity and kgpt.BitsPerByte in Keras's own evaluation, with sample weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import kgpt
from kgpt.text.tokenizer import Tokenizer
from tests.tiny import tiny_model


@pytest.mark.backend
def test_metrics_of_a_compiled_model_are_those_of_its_tokens() -> None:
    tokenizer = Tokenizer.of_bytes()
    model = tiny_model("gpt2", noise=0.2, num_layers=1)
    metrics = [kgpt.Perplexity(), kgpt.BitsPerByte.for_tokenizer(tokenizer)]
    model.compile(loss=kgpt.NextTokenLoss(), weighted_metrics=metrics)
    random = np.random.default_rng(0)
    inputs, targets = random.integers(0, 259, (2, 4, 6)).astype("int32")
    weights = random.integers(0, 2, (4, 6)).astype("float32")
    found = model.evaluate(
        inputs, targets, sample_weight=weights, batch_size=2, verbose=0, return_dict=True
    )
    logits = model.predict(inputs, batch_size=2, verbose=0).astype("float64")
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    losses = -np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    total = (losses * weights).sum()
    assert found["perplexity"] == pytest.approx(np.exp(total / weights.sum()), rel=1e-4)
    sizes = (targets < 256) * weights  # special tokens are no text
    assert found["bits_per_byte"] == pytest.approx(total / np.log(2) / sizes.sum(), rel=1e-4)


@pytest.mark.backend
def test_metrics_come_back_from_their_configuration() -> None:
    metric = kgpt.BitsPerByte([1, 2, 3])
    again = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert again.token_bytes == [1, 2, 3] and again.name == "bits_per_byte"
    for found in (metric, again, kgpt.Perplexity()):
        found.update_state(np.array([[1, 2]]), np.zeros((1, 2, 3), "float32"), np.array([2.0]))
        found.update_state(np.array([[2, 2]]), np.zeros((1, 2, 3), "float32"), np.array([0.0]))
    assert float(again.result()) == pytest.approx(2 * np.log2(3) / 5)
