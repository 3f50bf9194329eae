"""Documents, windows and batches: each token that counts is scored once, from the right context."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.config import EvaluationConfig
from kgpt.data.prepare import prepare
from kgpt.data.sources import Corpus
from kgpt.errors import UsageError
from kgpt.evaluation.documents import (
    Document,
    DocumentEncoder,
    EncodedDocument,
    fingerprint,
    read_documents,
)
from kgpt.evaluation.evaluate import likelihood_statistics, score_documents
from kgpt.evaluation.journal import Journal
from kgpt.evaluation.likelihood import batches, bucket_lengths
from kgpt.evaluation.positions import by_position, loss_by_position
from kgpt.evaluation.windows import Window, windows
from kgpt.text.tokenizer import Tokenizer


def plain(length: int) -> EncodedDocument:
    """A document of the tokens 0, 1, 2, ... all of which count but the first."""
    return EncodedDocument(np.arange(length, dtype="int32"), np.arange(length) > 0, 1, length)


@given(st.integers(1, 90), st.integers(2, 20), st.integers(1, 20))
def test_each_token_is_scored_once_from_enough_context(
    length: int, context: int, stride: int
) -> None:
    stride = min(stride, context)
    cut = list(windows(plain(length), 0, context, stride))
    scored = [t for w in cut for t in w.targets[w.weights > 0].tolist()]
    assert scored == list(range(1, length))
    for window in cut:
        assert len(window) <= context
        assert (window.targets == window.inputs + 1).all()
        first = window.targets[window.weights > 0][0]
        seen = first - window.inputs[0]  # tokens before the first that is scored
        assert seen == first or seen >= max(1, context - stride)


def test_windows_are_those_of_the_strided_recipe() -> None:
    """transformers: input_ids[begin:end], of which the last end - previous end are scored."""
    cut = list(windows(plain(23), 0, 8, 3))
    theirs, previous = [], 0
    for begin in range(0, 23, 3):
        end = min(begin + 8, 23)
        theirs.append((begin, end - 1, max(previous, 1), end))
        previous = end
        if end == 23:
            break
    ours = [
        (w.inputs[0], w.targets[-1], w.targets[w.weights > 0][0], w.targets[-1] + 1) for w in cut
    ]
    assert ours == theirs


@given(st.lists(st.integers(1, 128), min_size=1, max_size=60), st.sampled_from([1, 100, 500]))
def test_batches_hold_each_row_once_and_only_the_last_is_not_full(
    sizes: list[int], batch_tokens: int
) -> None:
    found = list(batches(sizes, bucket_lengths(max(sizes), 128), batch_tokens))
    assert sorted(row for rows, _ in found for row in rows) == list(range(len(sizes)))
    for index, (rows, length) in enumerate(found):
        assert max(sizes[row] for row in rows) <= length <= 128
        assert len(rows) == max(1, batch_tokens // length) or index == len(found) - 1


class Counting:
    """A scorer whose loss of a token is its id, that breaks after some calls."""

    context = 16

    def __init__(self, calls: int = 1000):
        self.calls, self.scored = calls, 0

    def losses(
        self, cut: list[Window], progress: object = None, positions: np.ndarray | None = None
    ) -> np.ndarray:
        if not self.calls:
            raise KeyboardInterrupt
        self.calls -= 1
        self.scored += len(cut)
        for row, w in enumerate(cut if positions is not None else ()):
            positions[row] = by_position(w.targets.astype("float64"), w.weights)
        return np.array([(w.targets * w.weights).sum() for w in cut], "float64")


@pytest.fixture
def config(tmp_path: Path) -> EvaluationConfig:
    rows = [{"text": f"naïve words {'and more ' * i}"} for i in range(9)]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return EvaluationConfig(data=[str(tmp_path / "docs.jsonl")])


def test_bytes_and_words_are_those_of_the_text(config: EvaluationConfig) -> None:
    documents = read_documents(config)
    encoder = DocumentEncoder(Tokenizer.of_bytes())
    scores = score_documents(Counting(), encoder, documents, config)
    for score, document in zip(scores, documents, strict=True):
        ids = list(document.text.encode())
        assert score.bytes == score.tokens == len(ids)  # the first token counts, too
        assert score.words == len(document.text.split())
        assert score.loss == sum(ids)
    found = likelihood_statistics(scores)
    total = sum(score.loss for score in scores)
    words, size = sum(s.words for s in scores), sum(s.bytes for s in scores)
    assert found["loss"].value == pytest.approx(total / size)
    assert found["bits_per_byte"].value == pytest.approx(total / size / math.log(2))
    small = likelihood_statistics([type(scores[0])(12.0, 6, 3, 24)])
    assert small["token_perplexity"].value == pytest.approx(math.exp(2))
    assert small["word_perplexity"].value == pytest.approx(math.exp(4))
    assert words == sum(len(d.text.split()) for d in documents)


def test_losses_by_position_add_up_also_when_read_again(
    config: EvaluationConfig, tmp_path: Path
) -> None:
    documents, encoder = read_documents(config), DocumentEncoder(Tokenizer.of_bytes())
    journal = Journal(tmp_path, {})
    scores = score_documents(Counting(), encoder, documents, config, journal)
    for score in scores:
        losses, tokens = np.array(score.positions)
        assert losses.sum() == score.loss and tokens.sum() == score.tokens
    again = score_documents(Counting(0), encoder, documents, config, Journal(tmp_path, {}))
    both = [loss_by_position([np.array(one.positions) for one in some]) for some in (scores, again)]
    assert both[0] == both[1]
    places = [n for n, _ in both[0]]
    assert places == [1, 2, 4, 8, 16]  # windows have 16 tokens
    first = np.mean([document.text.encode()[0] for document in documents])
    assert both[0][0][1] != first  # also the first of later windows
    assert loss_by_position([]) == []


def test_an_interrupted_evaluation_goes_on(
    config: EvaluationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kgpt.evaluation.evaluate.WINDOWS_AT_ONCE", 8)
    documents, encoder = read_documents(config), DocumentEncoder(Tokenizer.of_bytes())
    whole = Counting()
    expected = score_documents(whole, encoder, documents, config)
    with pytest.raises(KeyboardInterrupt):
        score_documents(Counting(2), encoder, documents, config, Journal(tmp_path, {"a": 1}))
    (file,) = tmp_path.glob("finished-*.jsonl")
    finished = len(file.read_text().splitlines())
    assert 0 < finished < len(documents)
    with file.open("a") as out:
        out.write("[8, [1.0, 2")  # killed while it wrote
    rest = Counting()
    journal = Journal(tmp_path, {"a": 1})
    assert len(journal.done) == finished
    assert score_documents(rest, encoder, documents, config, journal) == expected
    assert 0 < rest.scored < whole.scored
    again = Counting(0)  # nothing is left to score
    assert (
        score_documents(again, encoder, documents, config, Journal(tmp_path, {"a": 1})) == expected
    )
    assert not Journal(tmp_path, {"a": 2}).done


def test_a_data_set_holds_the_documents_of_its_files(
    config: EvaluationConfig, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.of_bytes()
    prepare(Corpus(config.data), tokenizer, tmp_path / "set", val_fraction=0.3)
    whole = config.model_copy(update={"data": [str(tmp_path / "set")], "split": "all"})
    prepared, documents = read_documents(whole), read_documents(config)
    assert sorted(d.text for d in prepared) == sorted(d.text for d in documents)
    assert 0 < len(read_documents(whole.model_copy(update={"split": "val"}))) < len(documents)
    assert all(len(d.token_ids) == d.num_bytes for d in prepared)  # without the end-of-text token
    for own in (tokenizer, Tokenizer.of_characters(["abc"])):  # the same, or another
        encoder = DocumentEncoder(own)
        texts = {own.decode(e.token_ids.tolist(), True) for e in encoder.encode(prepared)}
        assert texts == {d.text for d in documents}
    assert len(fingerprint(documents)) == 64 != fingerprint(documents[1:])


def test_of_conversations_only_what_the_assistant_says_counts(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Who is it?"}, {"role": "assistant", "content": "É Ana"}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": turns}))
    config = EvaluationConfig(data=[str(tmp_path / "chat.jsonl")])
    tokenizer = Tokenizer.of_bytes()
    (document,) = read_documents(config)
    assert (document.num_bytes, document.num_words) == (6, 2)
    (encoded,) = DocumentEncoder(tokenizer).encode([document])
    learned = encoded.token_ids[encoded.loss_mask].tolist()
    assert tokenizer.decode(learned) == "É Ana<|im_end|>"
    prepare(Corpus(config.data), tokenizer, tmp_path / "set", val_fraction=0.0)
    whole = config.model_copy(update={"data": [str(tmp_path / "set")], "split": "train"})
    (prepared,) = read_documents(whole)
    assert (prepared.num_bytes, prepared.num_words) == (6, 2)
    (same,) = DocumentEncoder(tokenizer).encode([prepared])
    assert same.token_ids[same.loss_mask].tolist() == learned
    with pytest.raises(UsageError, match="another tokenizer"):
        list(DocumentEncoder(Tokenizer.of_characters(["abc"])).encode([prepared]))


def test_the_first_token_counts_if_wanted() -> None:
    tokenizer = Tokenizer.of_bytes()
    documents = [Document("ab")]
    (first,) = DocumentEncoder(tokenizer).encode(documents)
    assert first.token_ids.tolist() == [tokenizer.eos_id, 97, 98]
    assert first.loss_mask.tolist() == [False, True, True]
    (later,) = DocumentEncoder(tokenizer, first_token=False).encode(documents)
    assert later.token_ids.tolist() == [97, 98] and later.loss_mask.tolist() == [False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"context": 17}, "context is 17, but"), ({"context": 8, "stride": 9}, "above the context")],
)
def test_windows_that_do_not_fit_are_refused(
    config: EvaluationConfig, options: dict[str, int], message: str
) -> None:
    config = config.model_copy(update=options)
    encoder = DocumentEncoder(Tokenizer.of_bytes())
    with pytest.raises(UsageError, match=message):
        score_documents(Counting(), encoder, read_documents(config), config)
