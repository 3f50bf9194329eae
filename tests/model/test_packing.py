"""Sequences packed into one row are computed as if each were alone."""

import keras
import numpy as np
import pytest

from kgpt import GPT, ModelConfig, NextTokenLoss
from kgpt.model.inputs import segments_of
from tests.model.models import KINDS, model_of
from tests.model.test_gradients import gradients_by_training

pytestmark = pytest.mark.backend

LENGTH = 24
SIZES = [[7, 1, 9, 5], [11, 13]]  # of the sequences in each row; what is left is padding


def packed_and_alone(seed=0):
    """One batch of packed rows, and one with a row for each sequence: (inputs, targets, weights).

    Both have the same ids in the same order; padding weighs nothing.
    """
    noise = np.random.default_rng(seed)
    count = sum(map(len, SIZES))
    packed, alone = ([np.zeros((n, LENGTH), "int32") for _ in range(3)] for n in (2, count))
    number = 0
    for row, sizes in enumerate(SIZES):
        start = 0
        for segment, size in enumerate(sizes, 1):
            ids = noise.integers(0, 37, (2, size)).astype("int32")
            here = slice(start, start + size)
            packed[0][row, here], packed[1][row, here] = ids
            packed[2][row, here] = segment
            alone[0][number, :size], alone[1][number, :size] = ids
            alone[2][number, :size] = 1
            start, number = start + size, number + 1
    inputs = {"token_ids": packed[0], "segment_ids": packed[2]}
    weights = (packed[2] > 0).astype("float32")
    return (inputs, packed[1], weights), (*alone[:2], alone[2].astype("float32"))


def logits_of(model, inputs):
    return keras.ops.convert_to_numpy(model(keras.tree.map_structure(keras.ops.array, inputs)))


def test_positions_start_anew_in_each_segment():
    ids = np.array([[1, 1, 1, 2, 3, 3, 0], [4, 4, 4, 4, 4, 4, 4], [0, 0, 0, 0, 0, 0, 0]])
    positions = keras.ops.convert_to_numpy(segments_of(keras.ops.array(ids), 8).positions)
    assert positions.tolist() == [[0, 1, 2, 0, 0, 1, 0], list(range(7)), list(range(7))]


@pytest.mark.parametrize("kind", ["gpt2", "llama-window", "one-kv-head", "sinusoidal"])
def test_logits_equal_those_of_each_sequence_alone(kind):
    (inputs, _, weights), (ids, _, real) = packed_and_alone()
    model = model_of(kind)
    found, expected = logits_of(model, inputs), logits_of(model, ids)
    np.testing.assert_allclose(found[weights == 1], expected[real == 1], atol=1e-4)
    assert np.isfinite(found).all()
    as_one = logits_of(model, inputs["token_ids"])  # the whole row as one sequence
    assert np.abs(found - as_one)[0, 8:17].max() > 0.1


@pytest.mark.parametrize(("kind", "checkpointing"), [("gpt2", False), ("llama-window", True)])
def test_losses_and_gradients_equal_those_of_each_sequence_alone(kind, checkpointing):
    config = ModelConfig(**{**KINDS[kind], "num_layers": 1, "initializer_range": 0.2})
    (inputs, targets, weights), (ids, alone, real) = packed_and_alone()
    model = GPT(config, seed=4, gradient_checkpointing=checkpointing)
    found, loss = gradients_by_training(model, inputs, targets, weights=weights)
    expected, loss_alone = gradients_by_training(GPT(config, seed=4), ids, alone, weights=real)
    np.testing.assert_allclose(loss, loss_alone, rtol=1e-5)
    for path, gradient in expected.items():
        np.testing.assert_allclose(found[path], gradient, atol=1e-5, err_msg=path)
        assert np.abs(gradient).max() > 1e-4 or path.endswith("bias"), path


def test_with_dropout_a_segment_does_not_see_another():
    config = ModelConfig(**{**KINDS["gpt2"], "dropout": 0.25})
    (inputs, _, _), _ = packed_and_alone()
    changed = {**inputs, "token_ids": inputs["token_ids"].copy()}
    changed["token_ids"][:, :7] = 5  # in each row a part of the first segment
    logits = []
    for batch in (inputs, changed):
        tensors = keras.tree.map_structure(keras.ops.array, batch)
        logits.append(keras.ops.convert_to_numpy(GPT(config, seed=4)(tensors, training=True)))
    same = np.isclose(*logits, atol=1e-6).all(axis=-1)
    assert same[0, 7:].all() and same[1, 11:].all() and not same[:, :7].any()


@pytest.mark.portable
def test_any_keras_loss_and_metric_takes_packed_inputs(tmp_path):
    """Logits in place of hidden states; the model is then saved and loaded."""
    config = ModelConfig(**{**KINDS["gpt2"], "num_layers": 1})
    (inputs, targets, weights), _ = packed_and_alone()
    model = GPT(config)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="sgd", loss=loss, weighted_metrics=["sparse_categorical_accuracy"])
    history = model.fit(inputs, targets, sample_weight=weights, verbose=0).history
    assert set(history) == {"loss", "sparse_categorical_accuracy"}
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(logits_of(again, inputs), logits_of(model, inputs), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"token_ids": np.full((2, LENGTH), 37, "int32")}, "of the inputs is 37, but"),
        ({"segment_ids": np.ones((2, 9), "int32")}, "give one segment id for each token"),
        ({"segment_ids": np.array([[1] * 24, [2, 1, 2] + [0] * 21])}, "In row 1 of segment_ids"),
        ({"positions": np.zeros((2, LENGTH), "int32")}, "keys 'token_ids' and 'segment_ids', not"),
    ],
)
def test_bad_packed_inputs_are_refused(change, sentence):
    (inputs, targets, weights), _ = packed_and_alone()
    model = model_of("gpt2")
    model.compile(optimizer="sgd", loss=NextTokenLoss())
    with pytest.raises(ValueError, match=sentence):
        model.train_on_batch({**inputs, **change}, targets, weights)
