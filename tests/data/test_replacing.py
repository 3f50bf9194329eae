"""The data set of a run is replaced only if that is wanted."""

import os
import socket

import pytest

from kgpt.cli import main
from kgpt.data.prepare import prepare
from kgpt.data.sources import Corpus
from kgpt.errors import RunError
from kgpt.runs import RunData, RunStatus, new_run
from kgpt.text.tokenizer import Tokenizer


@pytest.mark.parametrize("noted", [True, False])
def test_the_data_set_of_a_run_is_replaced_only_if_that_is_wanted(tmp_path, monkeypatch, noted):
    """Whether the run notes its data set or, as before, only its run.yaml names it."""
    monkeypatch.chdir(tmp_path)
    text, out = tmp_path / "a.txt", tmp_path / "set"
    text.write_text("It was Monday.\n" * 50)

    def prepare_again(**options):
        return prepare(Corpus([str(text)]), Tokenizer.of_bytes(), out, **options)

    prepare_again()
    prepare_again()  # no run is on it
    run = new_run("one")
    run.path.mkdir(parents=True)
    run.write_config("data: {dir: set}")
    if noted:
        noted = {"sha256": "", "tokenizer_sha256": "", "vocab_size": 259}
        run.write_data(RunData(path=str(out), train_tokens=1, val_tokens=1, **noted))
    ended = RunStatus(state="finished", pid=1, host=socket.gethostname())
    run.write_status(ended)
    before = (out / "manifest.json").stat().st_mtime_ns
    with pytest.raises(RunError, match="is that of one, which could not be resumed without it"):
        prepare_again()
    with pytest.raises(SystemExit) as ending:
        main(["data", "prepare", "a.txt", "--out", "set", "--quiet"])
    assert ending.value.code == 1 and (out / "manifest.json").stat().st_mtime_ns == before
    run.write_status(ended.model_copy(update={"state": "training", "pid": os.getpid()}))
    with pytest.raises(RunError, match="in use by one, which is training; stop the run"):
        prepare_again(overwrite=True)
    assert (out / "manifest.json").stat().st_mtime_ns == before
    run.write_status(ended)
    with pytest.raises(SystemExit) as ending:
        main(["data", "prepare", "a.txt", "--out", "set", "--quiet", "--overwrite"])
    assert ending.value.code == 0 and (out / "manifest.json").stat().st_mtime_ns != before


def test_a_run_on_another_data_set_is_no_reason_to_refuse(tmp_path):
    (tmp_path / "a.txt").write_text("It was Monday.\n" * 50)
    run = new_run("one")
    run.path.mkdir(parents=True)
    run.write_config(f"data: {{dir: {tmp_path / 'another'}}}")
    for _ in range(2):
        corpus = Corpus([str(tmp_path / "a.txt")])
        prepare(corpus, Tokenizer.of_bytes(), tmp_path / "set")
