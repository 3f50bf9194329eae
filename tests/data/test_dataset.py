"""The data sets that `model.fit` takes: shapes, resumption, and whole validation."""

import numpy as np
import pytest

from kgpt.data.dataset import EvaluationDataset, TrainDataset
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


PACKINGS = ("stream", "documents", "none")


def arrays(batch):
    """The arrays of a batch, whose inputs may be a dictionary."""
    inputs, *rest = batch
    return [*(inputs.values() if isinstance(inputs, dict) else [inputs]), *rest]


def equal(batch, other):
    return all(map(np.array_equal, arrays(batch), arrays(other)))


@pytest.mark.parametrize("options", [{}, {"token_dropout": 0.2}, {"assistant_only_loss": True}])
@pytest.mark.parametrize("packing", PACKINGS)
def test_resumed_at_any_step_the_batches_go_on_as_before(data, packing, options):
    options = {**options, "packing": packing}
    whole = TrainDataset(data, 4, 32, num_batches=200, seed=5, **options)
    for first in (1, 63, 150):
        rest = TrainDataset(
            data, 4, 32, num_batches=200 - first, seed=5, start_batch=first, **options
        )
        assert len(rest) == 200 - first
        assert all(equal(rest[i], whole[first + i]) for i in range(0, len(rest), 17))


@pytest.mark.parametrize("options", [{"token_dropout": 0.2, "token_replacement": 0.1}, {}])
@pytest.mark.parametrize("packing", PACKINGS)
def test_processes_make_the_rows_of_one_global_batch(data, packing, options):
    """Of 1, 2, 4 or 8 processes each makes its rows alone; together they are the same batch."""
    options = {**options, "assistant_only_loss": not options, "packing": packing}

    def train(rows):
        return TrainDataset(data, 8, 32, 40, seed=5, start_batch=90, rows=rows, **options)

    def evaluate(rows):
        options = {"assistant_only_loss": True, "packing": packing}
        return EvaluationDataset(data, 8, 32, split="val", rows=rows, **options)

    for make in (train, evaluate):
        whole = make(slice(None))
        indices = {0, len(whole) // 2, len(whole) - 1}  # the last is filled up with padding
        for processes in (1, 2, 4, 8):
            size = 8 // processes
            parts = [make(slice(i * size, (i + 1) * size)) for i in range(processes)]
            for index in indices:
                made = [arrays(part[index]) for part in parts]
                assert {len(array) for part in made for array in part} == {size}
                joined = [np.concatenate(pieces) for pieces in zip(*made, strict=True)]
                assert all(map(np.array_equal, joined, arrays(whole[index])))


@pytest.mark.parametrize("packing", PACKINGS)
def test_hidden_tokens_are_the_end_of_text_and_targets_stay_true(data, packing):
    options = {"num_batches": 1, "packing": packing}
    clean = arrays(TrainDataset(data, 8, 64, **options)[0])
    noisy = arrays(TrainDataset(data, 8, 64, token_dropout=0.3, **options)[0])
    hidden = noisy[0][noisy[0] != clean[0]]
    assert set(hidden.tolist()) == {data.tokenizer.eos_id}
    assert equal(clean[1:], noisy[1:])


@pytest.mark.parametrize("packing", PACKINGS)
def test_replies_only_weighs_what_the_assistant_says(data, packing):
    options = {"assistant_only_loss": True, "packing": packing}
    for batches in (
        TrainDataset(data, 8, 64, num_batches=1, **options),
        EvaluationDataset(data, 8, 64, **options),
    ):
        _, targets, weights = batches[0]
        assert weights.shape == targets.shape
        assert 0 < weights.mean() < 0.9


@pytest.mark.parametrize("packing", ["documents", "none"])
def test_an_epoch_and_a_validation_have_the_first_tokens_of_each_document(data, packing):
    """As many targets as the documents have tokens but the first, up to the length."""
    offsets = data.document_offsets("val").astype(int)
    sizes = np.diff(offsets, append=len(data.tokens("val")))
    expected = np.minimum(sizes - 1, 32).sum()
    batches = EvaluationDataset(data, 4, 32, packing=packing)
    assert sum(batches[i][2].sum() for i in range(len(batches))) == expected
    assert len(EvaluationDataset(data, 4, 32, limit=2, packing=packing)) == 2
    sampler = TrainDataset(data, 4, 32, num_batches=1, packing=packing).sampler
    steps = round(4 * sampler.tokens_per_epoch / sampler.tokens_per_batch)  # four epochs
    batches = TrainDataset(data, 4, 32, num_batches=steps, packing=packing)
    weights = [batches[i][2] for i in range(steps)]
    share = sum(w.sum() for w in weights) / sum(w.size for w in weights)
    assert share == pytest.approx(sampler.utilization)
    assert (
        sampler.num_truncated
        == (
            np.diff(data.document_offsets("train").astype(int), append=len(data.tokens("train")))
            > 33
        ).sum()
    )


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
