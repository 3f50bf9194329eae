"""Fine-tuning runs: adapters and frozen weights, their checkpoints, exact resume, refusals."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kgpt
from kgpt.checkpoints.peft_format import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from kgpt.checkpoints.pretrained import load_model
from kgpt.cli import main
from kgpt.config import Config
from kgpt.data.shards import TokenDataset
from kgpt.errors import DataError, UsageError
from kgpt.runs import find_run
from kgpt.text.chat_template import load_chat_template
from kgpt.text.tokenizer import TURN_END, Tokenizer
from kgpt.training.task import make_task
from tests.cli.running import kgpt as run_kgpt
from tests.tiny import write_tiny_model
from tests.training.tiny_runs import TINY, Trained

LLAMA = {"max_length": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "hidden_dim": 16}


@pytest.fixture(scope="module")
def base(data, tmp_path_factory) -> Path:
    """A model with the tokenizer of the data set."""
    tokenizer = TokenDataset(data).tokenizer
    folder = tmp_path_factory.mktemp("base")
    return write_tiny_model(folder, "llama", tokenizer, noise=0.1, **LLAMA)


def make_config(base, data, finetune, **changes) -> Config:
    values = {
        "data": {"dir": str(data)},
        "train": TINY["train"] | changes.pop("train", {}),
        "sampling": TINY["sampling"],
        "finetune": {"objective": "sft", "model": str(base)} | finetune,
    }
    return Config.parse(values | changes)


def weights(folder):
    return {v.path: v.numpy() for v in load_model(folder).trainable_variables}


@pytest.mark.backend
@pytest.mark.parametrize(
    ("finetune", "lora", "precision"),
    [
        pytest.param(
            {"method": "lora"},
            {"rank": 2, "dropout": 0.2, "target_modules": "v_proj"},
            "bfloat16",
            marks=pytest.mark.portable,
        ),
        (
            {"method": "dora", "base_precision": "int8"},
            {"rank": 3, "target_modules": "down_proj"},
            "float32",
        ),
    ],
    ids=["lora-bfloat16", "qdora"],
)
def test_a_run_of_adapters_repeats_its_losses_when_it_is_resumed(
    base, data, finetune, lora, precision
):
    """A checkpoint holds the adapter and the state of its training, and is a model argument."""
    train = {"max_steps": 4, "precision": precision}
    if precision == "bfloat16":
        train |= {"eval_every": 4, "sample_every": 4}
    config = make_config(base, data, finetune, lora=lora, train=train)
    first = Trained(config)
    assert (first.outcome.state, first.outcome.step) == ("finished", 4)
    run = first.run
    names = {file.name for file in run.checkpoint_path(4).iterdir()}
    assert {ADAPTER_CONFIG, ADAPTER_WEIGHTS, "optimizer.safetensors"} <= names
    assert "model.safetensors" not in names and "config.json" not in names
    losses = first.losses
    assert set(losses) == {1, 2, 3, 4}
    shutil.rmtree(run.checkpoint_path(4))
    again = Trained(Config.resume(run.path / "run.yaml", None, {}), resume=True)
    assert "resuming at step 2" in again.shown
    assert again.losses == losses
    merged, before = weights(run.checkpoint_path(4)), weights(base)
    changed = {path for path in before if not np.array_equal(merged[path], before[path])}
    part = "attention/qkv" if precision == "bfloat16" else "mlp/down"
    assert {path.partition("/")[2] for path in changed} == {f"block_{i}/{part}" for i in (0, 1)}


@pytest.mark.backend
@pytest.mark.portable
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("prefix", {"prefix": {"num_virtual_tokens": 3}}),
        ("adapter", {"bottleneck": {"size": 2, "dropout": 0.2}}),
    ],
)
def test_a_run_of_what_cannot_be_merged_is_a_model(base, data, method, options):
    """It repeats its losses when it is resumed, on int8 weights; its checkpoint is run as it is."""
    finetune = {"method": method, "base_precision": "int8"}
    train = {"max_steps": 4, "eval_every": 4, "sample_every": 4}
    first = Trained(make_config(base, data, finetune, train=train, **options))
    run, losses = first.run, first.losses
    folder = run.checkpoint_path(4)
    names = {file.name for file in folder.iterdir()}
    assert ADAPTER_WEIGHTS in names and "model.safetensors" not in names
    length = 13 if method == "prefix" else 16
    assert load_model(folder).max_length == length and run.samples()
    with pytest.raises(UsageError, match="is itself an adapter, which cannot be merged"):
        make_task(make_config(folder, data, {"method": "lora"})).complete()
    shutil.rmtree(folder)
    again = Trained(Config.resume(run.path / "run.yaml", None, {}), resume=True)
    assert "resuming at step 2" in again.shown and again.losses == losses
    too_long = make_config(base, data, finetune, train={"sequence_length": 16}, **options)
    if method == "prefix":
        with pytest.raises(UsageError, match="less the 3 positions of the prefix"):
            Trained(too_long)


@pytest.mark.backend
def test_frozen_weights_stay_and_a_checkpoint_is_the_whole_model(base, data):
    finetune = {"freeze_layers": 1, "freeze": ["*/mlp/*", "final_norm/*"]}
    run = Trained(make_config(base, data, finetune, train={"max_steps": 2, "ema_decay": 0.5})).run
    now, before = weights(run.checkpoint_path(2)), weights(base)
    changed = {p.partition("/")[2] for p in before if not np.array_equal(now[p], before[p])}
    kept = [path for path in changed if path.startswith(("block_0/", "token_embedding"))]
    assert kept == [] and changed == {
        "block_1/attention/qkv", "block_1/attention/output",
        "block_1/attention_norm/scale", "block_1/mlp_norm/scale",
    }  # fmt: skip


REFUSED = [
    ({"method": "lora", "freeze_layers": 1}, {}, "for --method full"),
    ({"base_precision": "int8"}, {}, "give --method lora, dora, adapter or prefix"),
    ({"method": "lora", "base_precision": "bfloat16"}, {}, "give --train.precision bfloat16"),
    ({}, {"model": {"num_layers": 3}}, "model.num_layers is 3, but the model .* has 2"),
    ({"model": None}, {}, "No model is named"),
]


@pytest.mark.parametrize(("finetune", "changes", "sentence"), REFUSED)
def test_what_cannot_be_fine_tuned_is_refused(base, data, finetune, changes, sentence):
    task = make_task(make_config(base, data, finetune, **changes))
    with pytest.raises(UsageError, match=sentence):
        task.complete()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": 3}, "has 2 layers; 3 cannot be frozen"),
        ({"patterns": ["blocks/*"]}, "No weight .* has a path like 'blocks/"),
        ({"patterns": ["*"]}, "leave some to train"),
    ],
)
def test_freezing_what_is_not_there_is_refused(base, options, sentence):
    with pytest.raises(UsageError, match=sentence):
        kgpt.freeze(load_model(base), **options)


def test_data_of_another_tokenizer_is_refused(data, tmp_path):
    other = write_tiny_model(tmp_path / "other", "llama", Tokenizer.of_bytes(), **LLAMA)
    with pytest.raises(DataError, match="was prepared with another tokenizer than that of"):
        make_task(make_config(other, data, {})).complete()


def test_dropout_may_differ_from_the_base_models(base, data):
    task = make_task(make_config(base, data, {}, model={"dropout": 0.25}))
    task.complete()
    assert (task.config.model.dropout, task.config.model.num_layers) == (0.25, 2)


@pytest.mark.portable
@pytest.mark.backend
def test_conversations_are_prepared_into_the_run_with_the_models_tokenizer(
    tmp_path, monkeypatch, capfd
):
    """From files to a merged model; the data set, the loss mask and the base are in run.yaml."""
    monkeypatch.setenv("KGPT_RESTARTED", "1")
    shape = {**LLAMA, "max_length": 64}
    plain = Tokenizer.of_bytes()
    plain.special_tokens = replace(
        plain.special_tokens, chat_template=None, stop_ids=frozenset({plain.eos_id})
    )  # as that of a model of texts
    folder = write_tiny_model(tmp_path / "base", "llama", plain, **shape)
    rows = [{"prompt": f"{n}?", "completion": f"{n + 1}!"} for n in range(20)]
    file = tmp_path / "chat.jsonl"
    rows += [{"prompt": "?", "completion": n * "long"} for n in (0, 50, 60)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = ["--train.max-steps", "2", "--train.eval-every", "2", "--train.sample-every", "0"]
    command = ["finetune", "lora", "--model", folder, "--data", file, "--run", "tuned", *steps]
    command += ["--skip-invalid", "--max-length", "60", "--truncate", "skip"]
    command += ["--lora.rank", "2", "--train.checkpoint-every", "1"]
    code, shown, _ = run_kgpt(capfd, *command)
    assert code == 0 and "1 row that cannot be used, left out" in shown
    assert (
        "chat.jsonl, line 21:" in shown and "2 conversations longer than 60 tokens, left" in shown
    )
    run = find_run("tuned")
    config = Config.load(str(run.path / "run.yaml"))
    assert config.data.dir == str(run.path / "data") and config.data.assistant_only_loss
    assert config.data.packing == "documents"
    assert config.finetune.model == str(folder) and config.model.max_length == 64
    assert [len(TokenDataset(run.path / "data").document_offsets(s)) for s in ("train", "val")] == [
        18,
        2,
    ]
    tuned = Tokenizer.load(run.checkpoint_path(2))
    assert load_chat_template(tuned) is not None
    assert tuned.stop_ids == {tuned.eos_id, tuned.token_to_id(TURN_END)}
    code, _, _ = run_kgpt(capfd, "finetune", "--run", "tuned", "--resume")
    assert code == 0
    assert run_kgpt(capfd, "merge", "tuned", tmp_path / "merged")[0] == 0
    merged, before = weights(tmp_path / "merged"), weights(folder)
    assert any(not np.array_equal(merged[path], before[path]) for path in before)


WRONG = [
    (["finetune", "lora", "--data", "x"], "No model is named; give the model to fine-tune"),
    (["finetune", "--model", "x"], "No data is named; give --data"),
    (["finetune", "--model", "x", "--method", "lore", "--data", "x"], "preset or file is called"),
    (["finetune", "lora", "--model", "x", "--method", "y", "--data", "x"], "finetune.method"),
    (["train", "lora", "--data", "x"], "No model is named"),
    (["finetune", "--model", "x", "--data", "x", "--skip-invalid"], "made by `kgpt data prepare`"),
    (["finetune", "lora", "--resume", "--max-length", "9"], "run that is resumed is not prepared"),
    (["finetune", "dpo", "--model", "x", "--data", "x", "--truncate", "skip"], "for dpo is not"),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG, ids=lambda v: " ".join(v))
def test_a_wrong_command_is_one_sentence(arguments, sentence, data, capsys, monkeypatch):
    monkeypatch.setenv("KGPT_RESTARTED", "1")
    arguments = [str(data) if argument == "x" else argument for argument in arguments]
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and sentence in capsys.readouterr().err
