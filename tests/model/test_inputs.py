"""Too long sequences, ids beyond the vocabulary, floats: the same sentence on every backend."""

import keras
import numpy as np
import pytest

from kgpt import GPT, ModelConfig, NextTokenLoss
from kgpt.model.hidden_state_loss import HIDDEN_STATES_OF
from tests.model.models import KINDS, model_of

pytestmark = pytest.mark.backend

IDS = np.zeros((2, 4), "int32")
BAD = {
    "longer": (np.zeros((2, 9), "int32"), "has 9 tokens, but the model's max_length is 8"),
    "beyond": (IDS + np.int32(13), "of the inputs is 13, but the model's vocabulary has the ids 0"),
    "negative": (IDS - np.int32(1), "of the inputs is -1, but the model's vocabulary has the ids"),
    "floats": (IDS.astype("float32"), "Token ids are integers, not float32"),
    "list": (IDS.astype("float64").tolist(), "Token ids are integers, not float"),
}


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(vocab_size=13, max_length=8, num_layers=1, num_heads=2, hidden_dim=8)
    made = GPT(config, seed=2)
    made.compile(optimizer="sgd", loss=NextTokenLoss())
    return made


def before_and_after(model):
    return [variable.numpy().copy() for variable in model.trainable_variables]


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("as_dict", [False, True])
def test_a_call_with_a_longer_sequence_is_refused(kind, as_dict):
    """Also rotary and sinusoidal positions, and hidden states in place of logits."""
    ids = keras.ops.zeros((1, 25), "int32")
    with pytest.raises(ValueError, match="has 25 tokens, but the model's max_length is 24"):
        model_of(kind)({HIDDEN_STATES_OF: ids} if as_dict else ids)


def test_a_call_with_floats_is_refused(model):
    with pytest.raises(ValueError, match="Token ids are integers, not float32"):
        model(keras.ops.zeros((1, 4), "float32"))


@pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
@pytest.mark.parametrize("name", BAD)
def test_training_and_evaluation_refuse_bad_inputs(model, method, name):
    before = before_and_after(model)
    x, sentence = BAD[name]
    with pytest.raises(ValueError, match=sentence):
        getattr(model, method)(x, np.zeros(np.shape(x), "int32"))
    assert all(map(np.array_equal, before_and_after(model), before))


@pytest.mark.parametrize("method", ["predict", "predict_on_batch"])
@pytest.mark.parametrize("name", BAD)
def test_prediction_refuses_bad_inputs(model, method, name):
    x, sentence = BAD[name]
    with pytest.raises(ValueError, match=sentence):
        getattr(model, method)(x)


@pytest.mark.parametrize("target", [13, -1])
def test_targets_beyond_the_vocabulary_are_refused(model, target):
    with pytest.raises(ValueError, match=f"of the targets is {target}, but the model's vocab"):
        model.fit(IDS, IDS + np.int32(target))


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"vocab_size": 14, "length": 8}, "vocabulary of 14, but the model's is 13"),
        ({"vocab_size": 13, "length": 9}, "sequences of 9 tokens, but the model's max_length is 8"),
    ],
)
def test_a_data_set_of_another_vocabulary_or_length_is_refused(model, attributes, sentence):
    data = keras.utils.PyDataset()
    vars(data).update(attributes)
    with pytest.raises(ValueError, match=sentence):
        model.fit(data)


def test_the_largest_id_and_the_longest_sequence_train(model):
    ids = np.full((2, 8), 12, "int32")
    model.fit(ids, ids, batch_size=2, verbose=0)
