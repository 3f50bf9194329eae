"""The data sets that `model.fit` takes: shapes, resumption, and whole validation."""

import numpy as np
import pytest

from kgpt.data.dataset import DocumentDataset, EvaluationDataset, TrainDataset
from kgpt.data.prepare import prepare
from kgpt.data.shards import TokenDataset
from kgpt.data.sources import Corpus
from kgpt.data.tinyworld import write
from kgpt.errors import DataError
from kgpt.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    corpus = Corpus([str(write(folder, conversation_count=60, story_count=10))])
    prepare(corpus, Tokenizer.of_bytes(), folder / "set")
    return TokenDataset(folder / "set")


def equal(batch, other):
    return all(np.array_equal(a, b) for a, b in zip(batch, other, strict=True))


@pytest.mark.parametrize("options", [{}, {"token_dropout": 0.2}, {"assistant_only_loss": True}])
@pytest.mark.parametrize("kind", [TrainDataset, DocumentDataset])
def test_resumed_at_any_step_the_batches_go_on_as_before(data, kind, options):
    if kind is DocumentDataset:
        options = {key: value for key, value in options.items() if key == "assistant_only_loss"}
    whole = kind(data, 4, 32, num_batches=200, seed=5, **options)
    for first in (1, 63, 150):
        rest = kind(data, 4, 32, num_batches=200 - first, seed=5, start_batch=first, **options)
        assert len(rest) == 200 - first
        assert all(equal(rest[i], whole[first + i]) for i in range(0, len(rest), 17))


def test_hidden_tokens_are_the_end_of_text(data):
    clean = TrainDataset(data, 8, 64, num_batches=1)[0][0]
    noisy = TrainDataset(data, 8, 64, num_batches=1, token_dropout=0.3)[0][0]
    assert set(noisy[noisy != clean].tolist()) == {data.tokenizer.eos_id}


def test_replies_only_weighs_what_the_assistant_says(data):
    for batches in (
        TrainDataset(data, 8, 64, num_batches=1, assistant_only_loss=True),
        EvaluationDataset(data, 8, 64, assistant_only_loss=True),
        DocumentDataset(data, 8, 64, num_batches=1, assistant_only_loss=True),
    ):
        _, targets, weights = batches[0]
        assert weights.shape == targets.shape
        assert 0 < weights.mean() < 0.9


def test_evaluation_covers_the_whole_split(data):
    batches = EvaluationDataset(data, 4, 32)
    targets = [batches[i][1][batches[i][2] == 1] for i in range(len(batches))]
    stream = data.tokens("val")
    expected = stream.windows(np.array([1]), len(stream) - 1)[0]
    assert np.array_equal(np.concatenate(targets), expected)
    assert len(EvaluationDataset(data, 4, 32, limit=2)) == 2


def test_an_empty_validation_part_is_said_so(tmp_path):
    (tmp_path / "a.txt").write_text("some text " * 20)
    prepare(Corpus([str(tmp_path)], val_fraction=0), Tokenizer.of_bytes(), tmp_path / "set", 0)
    with pytest.raises(DataError, match="val part of .* is empty; prepare .*--val-fraction"):
        EvaluationDataset(tmp_path / "set", 2, 8)


def test_a_folder_does_as_well_as_an_open_data_set(data):
    assert equal(TrainDataset(data.folder, 2, 8, 1)[0], TrainDataset(data, 2, 8, 1)[0])
