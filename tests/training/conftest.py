"""The data set of the training tests."""

from pathlib import Path

import pytest

from kgpt.data.prepare import prepare
from kgpt.data.sources import Corpus
from kgpt.text.tokenizer import Tokenizer
from tests.xla_flags import quick_flags


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A data set of single characters: numbers in words, counted up."""
    folder = tmp_path_factory.mktemp("data")
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    text = "".join(
        " ".join(names[int(digit)] for digit in str(number)) + "\n" for number in range(900)
    )
    (folder / "text.txt").write_text(text)
    tokenizer = Tokenizer.of_characters([text])
    corpus = Corpus([str(folder / "text.txt")])
    prepare(corpus, tokenizer, folder / "set", val_fraction=0.02)
    return folder / "set"


@pytest.fixture
def quick_xla(monkeypatch) -> None:
    """The processes that a test starts compile quickly: for proofs that compare no backends."""
    monkeypatch.setenv("XLA_FLAGS", quick_flags())
