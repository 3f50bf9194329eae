"""Conversations as batches for `model.fit`: each once an epoch, to learn what is generated."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgpt import ChatDataset
from kgpt.data.prepare import prepare
from kgpt.data.shards import TokenDataset
from kgpt.data.sources import Corpus
from kgpt.errors import DataError
from kgpt.text.tokenizer import Tokenizer
from tests.tiny import tiny_model

TOKENIZER = Tokenizer.of_bytes()
END = "<|im_end|>"
TEXT = st.text(min_size=1, max_size=12).filter(str.strip)
TURNS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3)


def talk(*turns):
    return [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]


TALKS = [talk(("Hi", "a" * size)) for size in range(1, 30)]


def learned(data, epoch=0):
    """The learned texts of an epoch: of each conversation, what the assistant generates."""
    found = []
    for index in range(len(data)):
        inputs, targets, weights = data[epoch * len(data) + index]
        is_packed = isinstance(inputs, dict)
        segments = inputs["segment_ids"] if is_packed else np.ones_like(inputs)
        for row in range(len(targets)):
            for segment in range(1, segments[row].max() + 1):
                chosen = (segments[row] == segment) & (weights[row] == 1)
                found.append(TOKENIZER.decode(targets[row][chosen]))
    return Counter(text for text in found if text)


@pytest.mark.parametrize("packing", [False, True])
@settings(max_examples=20)
@given(st.lists(TURNS, min_size=1, max_size=5))
def test_what_is_learned_is_what_the_assistant_generates(packing, conversations):
    data = ChatDataset(
        [talk(*turns) for turns in conversations], TOKENIZER, 2, 256, packing, shuffle=False
    )
    expected = Counter("".join(answer + END for _, answer in turns) for turns in conversations)
    assert learned(data) == expected


@pytest.mark.parametrize("packing", [False, True])
def test_each_epoch_has_every_conversation_once_in_its_own_order(packing):
    data = ChatDataset(TALKS, TOKENIZER, 4, 100, packing, seed=3)
    expected = Counter(f"{conversation[1]['content']}{END}" for conversation in TALKS)
    first = [data[i][1] for i in range(len(data))]
    if not packing:  # with packing, epochs follow each other without padding
        assert learned(data) == learned(data, 1) == expected
    data.on_epoch_end()
    assert any(not np.array_equal(a, data[i][1]) for i, a in enumerate(first))
    again = ChatDataset(TALKS, TOKENIZER, 4, 100, packing, seed=3, shuffle=False)
    assert learned(again) == expected
    again.on_epoch_end()
    assert learned(again) == expected


def test_files_give_what_a_prepared_data_set_has(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in TALKS))
    prepare(Corpus([str(path)]), TOKENIZER, tmp_path / "set", val_fraction=0.2)
    prepared = TokenDataset(tmp_path / "set")
    for split in ("train", "val"):
        for source in (path, [str(path)], TALKS):
            data = ChatDataset(source, TOKENIZER, 2, 100, split=split, val_fraction=0.2)
            stream = prepared.tokens(split)
            whole = np.arange(len(stream))
            assert len(data.sampler.stream) == len(stream)
            assert np.array_equal(data.sampler.stream.take(whole), stream.take(whole))
            mask = prepared.loss_mask(split).take(whole)
            assert np.array_equal(data.sampler.loss_mask.take(whole), mask)
            assert np.array_equal(data.sampler.offsets, prepared.document_offsets(split))


def test_without_assistant_only_loss_every_target_weighs_one():
    data = ChatDataset(TALKS[:1], TOKENIZER, 1, 100, assistant_only_loss=False)
    assert data[0][2].sum() == len(data.sampler.stream) - 1


def test_long_conversations_are_cut_or_left_out_and_counted():
    cut = ChatDataset(TALKS, TOKENIZER, 2, 32)
    skipped = ChatDataset(TALKS, TOKENIZER, 2, 32, truncate="skip")
    assert cut.truncated == skipped.too_long > 0 == cut.too_long == skipped.truncated
    assert skipped.num_conversations + skipped.too_long == cut.num_conversations == len(TALKS)
    assert max(cut[i][0].shape[1] for i in range(len(cut))) == 32


def test_what_is_no_conversation_is_named_or_left_out():
    given = [TALKS[0], {"prompt": "Hi", "completion": "Yes"}, {"text": "x"}, TALKS[0][:1]]
    with pytest.raises(DataError, match=r"conversation 3 is no conversation \(its fields: text\)"):
        ChatDataset(given, TOKENIZER, 2, 64)
    data = ChatDataset(given, TOKENIZER, 2, 64, skip_invalid=True)
    assert data.num_conversations == data.invalid.count == 2
    assert "conversation 4: there is no message of the assistant" in data.invalid.first[1]
    with pytest.raises(DataError, match="no conversation to learn from"):
        ChatDataset(given[2:], TOKENIZER, 2, 64, skip_invalid=True)


@pytest.mark.backend
def test_a_model_learns_the_same_from_packed_conversations_as_from_padded_ones():
    import keras

    from kgpt import NextTokenLoss

    conversations = [talk(("a", "bc"), ("h", "i")), talk(("d", "e"), ("f", "g"))]
    losses = []
    for packing in (False, True):
        data = ChatDataset(conversations, TOKENIZER, 2, 128, packing, shuffle=False)
        assert len(data) == 1
        model = tiny_model(max_length=128, num_layers=1)
        model.compile(keras.optimizers.SGD(0.5), loss=NextTokenLoss())
        history = model.fit(data, epochs=2, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    assert losses[0][1] < losses[0][0]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
