"""Runs on whole documents, packed or in batches of similar length."""

import json
import shutil

import pytest

from kgpt.data.prepare import prepare
from kgpt.data.sources import Corpus
from kgpt.text.tokenizer import Tokenizer
from tests.training.tiny_runs import Trained, make_config

pytestmark = [pytest.mark.backend, pytest.mark.portable]
OPTIONS = {"max_steps": 4, "checkpoint_every": 2, "eval_every": 4, "batch_size": 2}


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    """Conversations of 15 to 75 tokens, of which 48 are used."""
    folder = tmp_path_factory.mktemp("chats")
    rows = [{"prompt": "?" * (1 + n % 30), "completion": "!" * (1 + n % 7)} for n in range(60)]
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = Corpus([str(folder / "chats.jsonl")], val_fraction=0.1)
    prepare(corpus, Tokenizer.of_bytes(), folder / "set")
    return folder / "set"


def test_a_resumed_run_on_packed_documents_repeats_its_losses(chats):
    data = {"packing": "documents", "assistant_only_loss": True}
    config = make_config(chats, data=data, model={"max_length": 48}, train=OPTIONS)
    whole = Trained(config)
    losses, val_loss = whole.losses, whole.outcome.best_val_loss
    assert set(losses) == {1, 2, 3, 4} and len(set(losses.values())) == 4 and val_loss > 0
    assert "% of the batches is padding" in whole.shown
    shutil.rmtree(whole.run.checkpoint_path(4))
    again = Trained(config, resume=True)
    assert again.losses == losses and again.outcome.best_val_loss == val_loss


def test_each_shape_of_batch_is_trained(chats):
    """A document in each row, with as many lengths as there are buckets; some are truncated."""
    data = {"packing": "none"}
    train = {**OPTIONS, "max_steps": 6, "batch_size": 8}
    run = Trained(make_config(chats, data=data, model={"max_length": 32}, train=train))
    assert all(loss > 1 for loss in run.losses.values())
    assert "documents are truncated to 32 tokens" in run.shown
