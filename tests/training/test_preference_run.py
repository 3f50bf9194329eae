"""Runs that learn preferences: their metrics, exact resume, refusals, from files to checkpoint."""

import json
import shutil
from pathlib import Path

import pytest

from kgpt.config import Config
from kgpt.data.preference_files import PreferenceFolder, read_pairs
from kgpt.errors import DataError
from kgpt.runs import find_run
from kgpt.text.tokenizer import Tokenizer
from kgpt.training.preference import REFERENCE, prepare_preferences
from tests.cli.running import kgpt as run_kgpt
from tests.tiny import write_tiny_model
from tests.training.tiny_runs import TINY, Trained

SHAPE = {"max_length": 24, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "hidden_dim": 16}
TOKENIZER = Tokenizer.of_bytes()


def rows_of(count, good="yes", bad="no!"):
    return [
        {"prompt": f"{number}? ", "chosen": good * (1 + number % 2), "rejected": bad}
        for number in range(count)
    ]


def write_rows(file, rows) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base"), "llama", noise=0.1, **SHAPE)


def make_config(base, folder, objective, method="lora", **changes) -> Config:
    values = {
        "data": {"dir": str(folder)},
        "train": TINY["train"] | {"max_steps": 4, "eval_every": 4} | changes.pop("train", {}),
        "sampling": TINY["sampling"],
        "finetune": {"objective": objective, "model": str(base), "method": method},
        "lora": {"rank": 2},
    }
    return Config.parse(values | changes)


def prepared(base, tmp_path, objective, method="lora", rows=None, **changes) -> Config:
    """A configuration whose data are in a folder of their own."""
    config = make_config(base, tmp_path / "data", objective, method, **changes)
    files = [str(write_rows(tmp_path / "rows.jsonl", rows or rows_of(12)))]
    prepare_preferences(config.model_copy(update={"model": config.model.model_copy(
        update={"max_length": 24})}), files, TOKENIZER, tmp_path / "data")  # fmt: skip
    return config


@pytest.mark.backend
@pytest.mark.portable
@pytest.mark.parametrize(
    ("objective", "method"), [("dpo", "full"), ("dpo", "lora")], ids=["full", "adapters"]
)
def test_a_resumed_run_repeats_its_losses(base, tmp_path, objective, method):
    """Also of a model of which no weight is what the reference was computed with."""
    config = prepared(base, tmp_path, objective, method)
    first = Trained(config)
    assert (first.outcome.state, first.outcome.step) == ("finished", 4)
    assert (tmp_path / "data" / REFERENCE).exists() == (method == "full")
    last = first.run.metrics()[-1]
    assert {"rewards/chosen", "rewards/margins", "val_loss", "val_rewards/accuracies"} <= set(last)
    assert "val_perplexity" not in last
    assert first.losses[1] == pytest.approx(0.6931, abs=1e-3)
    assert first.losses[4] < first.losses[1]
    shutil.rmtree(first.run.checkpoint_path(4))
    (tmp_path / "rows.jsonl").unlink()
    again = Trained(Config.resume(first.run.path / "run.yaml", None, {}), resume=True)
    assert "resuming at step 2" in again.shown
    assert again.losses == first.losses


@pytest.mark.parametrize("objective", ["kto", "orpo", "ipo"])
def test_other_objectives_prefer_what_was_chosen(base, tmp_path, objective):
    run = Trained(prepared(base, tmp_path, objective, "full")).run
    rows = run.metrics()
    assert rows[-1]["rewards/margins"] > rows[0]["rewards/margins"]


def test_kto_reads_labels_which_the_others_refuse(base, tmp_path):
    rows = [
        {"prompt": f"{number}?", "completion": "yes" if number % 2 else "no", "label": number % 2}
        for number in range(10)
    ]
    config = prepared(base, tmp_path, "kto", rows=rows)
    preferences = PreferenceFolder(tmp_path / "data").part("train")
    assert not preferences.paired and 0 < preferences.labels.mean() < 1
    for number, label in enumerate(preferences.labels):
        completion = TOKENIZER.decode(preferences.completions.row(number)[1].tolist())
        assert completion.startswith("yes") == bool(label)
    config.finetune.objective = "dpo"
    with pytest.raises(DataError, match="only kto"):
        Trained(config)


def test_pairs_of_one_prompt_are_in_one_part(tmp_path):
    rows = [row | {"rejected": f"no {n}"} for n in range(3) for row in rows_of(20)]
    preferences = read_pairs([str(write_rows(tmp_path / "rows.jsonl", rows))], TOKENIZER)
    train, val = preferences.split()
    assert (len(train), len(val)) == (54, 6)
    prompts = [{p.completions.row(i)[0].tobytes() for i in range(len(p))} for p in (train, val)]
    assert not prompts[0] & prompts[1]


def test_the_command_line(base, tmp_path, capsys, monkeypatch):
    """From files to an adapter; what is no pair is refused with file and line."""
    monkeypatch.setenv("KGPT_RESTARTED", "1")
    file = write_rows(tmp_path / "pairs.jsonl", rows_of(12))
    options = ["--model", base, "--train.max-steps", 2, "--train.batch-size", 4,
               "--train.sample-every", 2, "--sampling.max-tokens", 3]  # fmt: skip
    arguments = ["finetune", "dpo", "--data", file, "--run", "pairs", *options]
    code, _, error = run_kgpt(capsys, *arguments)
    assert code == 0, error
    run = find_run("pairs")
    assert run.status().state == "finished"
    log = run.log.read_text()
    assert "DPO on 10 pairs, 2 for validation" in log
    assert (run.path / "data" / "preferences.json").is_file()
    bad = write_rows(tmp_path / "bad.jsonl", [*rows_of(2), {"prompt": "x", "chosen": "y"}])
    code, _, error = run_kgpt(capsys, "finetune", "dpo", "--data", bad, "--run", "bad", *options)
    assert code == 1 and "bad.jsonl" in error and "line 3" in error.replace("\n", " ")
