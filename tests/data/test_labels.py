"""Texts with labels: forms of rows and labels, refusals, splits, weights, and batches."""

import json

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from kgpt.data.corruption import InputCorruption
from kgpt.data.labelled_dataset import (
    SORTED_BATCHES,
    LabelledDataset,
    encode_texts,
    evaluation_batches,
    pad_batch,
)
from kgpt.data.labels import (
    LabelledTexts,
    class_weights,
    read_labelled,
    read_texts,
    stratified_split,
)
from kgpt.errors import DataError, UsageError
from kgpt.text.tokenizer import Tokenizer

ROWS = [("a cat", "x"), ("two\nlines", "y"), ("naïve, 🙂", "x")]


def write(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def jsonl(folder, rows):
    return write(folder, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def test_csv_and_jsonl_are_read_alike(tmp_path):
    rows = [{"body": text, "kind": label} for text, label in ROWS]
    csv = "body,kind\n" + "".join(f'"{text}",{label}\n' for text, label in ROWS)
    wanted = LabelledTexts([text for text, _ in ROWS], [(label,) for _, label in ROWS])
    for file in (jsonl(tmp_path, rows), write(tmp_path, "a.csv", csv)):
        assert read_labelled([file], "body", "kind") == wanted
        assert read_texts([file], "body") == wanted.texts
    assert wanted.names == ["x", "y"]
    np.testing.assert_array_equal(wanted.targets(["y", "x"], False), [1, 0, 1])


def test_numbers_are_labels_in_the_order_of_numbers(tmp_path):
    rows = [{"text": "", "label": label} for label in (10, 2, True, 2.0)]
    found = read_labelled([jsonl(tmp_path, rows)])
    assert found.labels == [("10",), ("2",), ("True",), ("2",)]
    assert found.take([0, 1]).names == ["2", "10"]


def test_several_labels(tmp_path):
    values = [["a", "b"], "b | c", "", [], None, "a"]
    rows = [{"text": "t", "label": value} for value in values]
    found = read_labelled([jsonl(tmp_path, rows)], multi_label=True)
    assert found.labels == [("a", "b"), ("b", "c"), (), (), (), ("a",)]
    assert found.targets(found.names, True).sum(axis=0).tolist() == [2, 2, 1]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"label": "x"}, "line 2 has no field 'text'; choose one with --text-field"),
        ({"text": "t"}, "line 2 has no field 'label'; choose one with --label-field"),
        ({"text": 5, "label": "x"}, "line 2 has int, not text"),
        ({"text": "t", "label": None}, "line 2 has no label"),
        ({"text": "t", "label": ""}, "line 2 has no label"),
        ({"text": "t", "label": ["x"]}, "line 2 has a list of labels; give --multi-label"),
    ],
)
def test_rows_that_cannot_be_used_are_refused_by_line(tmp_path, row, says):
    file = jsonl(tmp_path, [{"text": "t", "label": "x"}, row])
    with pytest.raises(DataError, match=says):
        read_labelled([file])


def test_files_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(DataError, match="has no rows"):
        read_labelled([write(tmp_path, "a.csv", "text,label\n")])
    with pytest.raises(UsageError, match="give files of rows"):
        read_labelled([write(tmp_path, "a.txt", "x")])
    unknown = LabelledTexts(["t"], [("z",)])
    with pytest.raises(DataError, match="'z' is not one of the model's: x, y"):
        unknown.targets(["x", "y"], False)


# -- splits and weights --------------------------------------------------------------------------


def many(counts):
    labels = [(name,) for name, count in counts.items() for _ in range(count)]
    return LabelledTexts([str(i) for i in range(len(labels))], labels)


@pytest.mark.parametrize("seed", range(3))
def test_a_split_is_stratified_and_complete(seed):
    counts = {"a": 100, "b": 31, "c": 5, "d": 1}
    data = many(counts)
    train, val = stratified_split(data, 0.2, seed)
    assert sorted(train.texts + val.texts, key=int) == data.texts
    held_out = {name: sum(labels == (name,) for labels in val.labels) for name in counts}
    assert held_out == {"a": 20, "b": 6, "c": 1, "d": 0}
    assert stratified_split(data, 0.2, seed) == (train, val)
    assert stratified_split(data, 0.2, seed + 1)[1].texts != val.texts


def test_of_several_labels_the_rarest_is_held_out():
    data = LabelledTexts(
        [str(i) for i in range(40)], [("common",)] * 30 + [("common", "rare")] * 10
    )
    _, val = stratified_split(data, 0.2, 0)
    assert sum("rare" in labels for labels in val.labels) == 2 and len(val) == 8


def test_class_weights():
    targets = np.array([0] * 6 + [1] * 3 + [2])
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    assert class_weights(targets, "abc", "balanced") == pytest.approx(theirs)
    assert class_weights(targets, "abc", {"b": 2.5}) == [1.0, 2.5, 1.0]
    several = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], "float32")
    assert class_weights(several, "ab", "balanced") == [pytest.approx(1 / 3), 3.0]
    with pytest.raises(UsageError, match="'z', which is no label"):
        class_weights(targets, "abc", {"z": 1})


# -- batches -------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
IDS = [RNG.integers(1, 9, n).tolist() for n in RNG.integers(1, 90, 101)]


def batches(start=0, count=60, **options):
    targets = np.arange(len(IDS))
    return LabelledDataset(IDS, targets, 4, 64, 0, count, seed=3, start_batch=start, **options)


def test_an_epoch_has_every_text_once():
    seen = np.concatenate([batches()[i][1] for i in range(51)])  # two epochs and two texts
    counts = np.bincount(seen[: 4 * 48], minlength=101)  # three whole groups of sorted batches
    assert set(counts) <= {1, 2} and SORTED_BATCHES == 16


def test_a_batch_holds_its_texts_padded_or_truncated():
    dataset = batches()
    for i in range(len(dataset)):
        ids, targets = dataset[i]
        lengths = [min(len(IDS[t]), 64) for t in targets]
        assert ids.shape[1] in (16, 32, 64) and ids.shape[1] < 2 * max(16, *lengths)
        for row, target, length in zip(ids, targets, lengths, strict=True):
            assert row[:length].tolist() == IDS[target][:64] and not row[length:].any()


def test_a_resumed_run_sees_the_same_batches():
    for i in range(40):
        for one, other in zip(batches(20)[i], batches()[20 + i], strict=True):
            np.testing.assert_array_equal(one, other)


def test_corruption_changes_tokens_and_no_padding():
    mask = InputCorruption(0.3, 0.0, mask_id=9, vocab_size=10)
    masked = []
    for i in range(16):
        (clean, targets), (noisy, same) = batches()[i], batches(corruption=mask)[i]
        np.testing.assert_array_equal(targets, same)
        is_token = clean != 0
        np.testing.assert_array_equal(clean[~is_token], noisy[~is_token])
        assert set(noisy[is_token][noisy[is_token] != clean[is_token]]) <= {9}
        masked.extend(noisy[is_token] == 9)
    assert np.mean(masked) == pytest.approx(0.3, abs=0.05)
    np.testing.assert_array_equal(batches(5, corruption=mask)[2][0], batches(corruption=mask)[7][0])


def test_evaluation_sees_every_text_once():
    found = evaluation_batches(IDS, 8, 64, 0)
    assert sorted(np.concatenate([n for n, _ in found]).tolist()) == list(range(101))
    assert {ids.shape[0] for _, ids in found} == {8}
    numbers, ids = found[-1]
    assert [row[: len(IDS[n])].tolist() for n, row in zip(numbers, ids, strict=False)] == [
        IDS[n][:64] for n in numbers
    ]


def test_encoded_texts_are_never_empty():
    tokenizer = Tokenizer.of_bytes()
    assert encode_texts(tokenizer, ["ab", ""]) == [[97, 98], [tokenizer.eos_id]]
    assert pad_batch([[1]], 8, 5).tolist() == [[1, 5, 5, 5, 5, 5, 5, 5]]
