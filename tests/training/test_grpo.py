"""Runs that learn from rewards: their files, exact resume, pause and stop, refusals."""

import json
import shutil

import pytest

from kgpt.config import Config
from kgpt.errors import DataError, UsageError
from kgpt.runs import find_run, new_run
from kgpt.text.tokenizer import Tokenizer
from kgpt.training.task import make_task
from tests.cli.running import kgpt as run_kgpt
from tests.tiny import write_tiny_model
from tests.training.tiny_runs import TINY, Trained

REWARD = """
def low_bytes(prompts, completions, **columns):
    return [sum(ord(c) < 128 for c in text) / max(1, len(text)) for text in completions]

def short(prompts, completions, limit):
    return [None if n is None else float(len(c) < n) for c, n in zip(completions, limit)]
"""
LLAMA = {"max_length": 64, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "hidden_dim": 16}
MEASURED = ("time", "tokens_per_s", "mfu", "rss", "cpu", "gpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a model, prompts and rewards."""
    folder = tmp_path_factory.mktemp("grpo")
    write_tiny_model(folder / "base", "llama", Tokenizer.of_bytes(), noise=0.1, **LLAMA)
    rows = [{"prompt": text, "limit": n} for text, n in (("ab", 2), ("cde", None), ("f", 3))]
    rows.append({"prompt": "a prompt too long for the context" * 3, "limit": 1})
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rewards.py").write_text(REWARD)
    return folder


def make_config(files, train=None, finetune=None, **grpo):
    return Config.parse(
        {
            "train": TINY["train"] | {"batch_size": 4, "max_steps": 4} | (train or {}),
            "finetune": {"objective": "grpo", "model": str(files / "base")} | (finetune or {}),
            "grpo": {
                "prompts": [str(files / "prompts.jsonl")],
                "reward": [f"{files}/rewards.py:low_bytes"],
                "num_generations": 4,
                "max_completion_length": 4,
            }
            | grpo,
        }
    )


def rows_of(run):
    """The metrics of a run but for what is measured, and its completions."""
    metrics = [
        {k: v for k, v in row.items() if not k.startswith(MEASURED)} for row in run.metrics()
    ]
    return metrics, run.completions()


@pytest.mark.backend
@pytest.mark.portable
def test_a_resumed_run_repeats_its_completions_and_losses(files):
    """Also amid two updates with the same completions, whose model generated them is gone."""
    config = make_config(
        files, {"checkpoint_every": 1, "keep_checkpoints": 9, "grad_accumulation": 2},
        {"method": "lora"}, num_iterations=2, beta=0.1,
    )  # fmt: skip
    whole = Trained(config, "whole").run
    metrics, completions = rows_of(whole)
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    assert {row["step"] for row in completions} == {1, 3} and len(completions) == 16
    copy = new_run("copy")
    shutil.copytree(whole.path, copy.path)
    shutil.rmtree(copy.checkpoint_path(4))
    (copy.path / "samples.jsonl").unlink(missing_ok=True)
    resumed = Trained(make_task_config(copy), "copy", resume=True)
    assert resumed.outcome.step == 4 and rows_of(resumed.run) == (metrics, completions)


def make_task_config(run):
    return Config.load(str(run.path / "run.yaml"))


def test_what_a_run_writes(files):
    rewards = [f"{files}/rewards.py:{name}" for name in ("low_bytes", "short")]
    config = make_config(
        files, {"max_steps": 2, "sample_every": 2, "sample_prompts": []}, reward=rewards
    )
    trained = Trained(config)
    assert "low_bytes" in trained.shown and "3 prompts (1 more are too long)" in trained.shown
    row = trained.run.metrics()[-1]
    assert 0 <= row["reward"] <= 2 and row["completions/mean_length"] <= 4
    names = {"reward_std", "frac_reward_zero_std", "completions/clipped_ratio", "entropy"}
    assert names | {"rewards/low_bytes/mean"} <= row.keys() and "kl" not in row
    completion = trained.run.completions()[0]
    assert completion.keys() == {"step", "prompt", "completion", "rewards"}
    assert [row["step"] for row in trained.run.samples()] == [2]
    assert find_run("run").checkpoint_path(2).is_dir()
    assert Config.load(str(trained.run.path / "run.yaml")).grpo.reward == rewards


def test_the_command_and_its_refusals(files, capsys, monkeypatch):
    monkeypatch.setenv("KGPT_RESTARTED", "1")
    monkeypatch.chdir(files)
    command = ["finetune", "grpo", "--model", "base", "--data", "prompts.jsonl", "--run", "cli"]
    flags = ["--train.max-steps", "1", "--train.batch-size", "8", "--train.warmup-steps", "0"]
    flags += ["--grpo.max-completion-length", "4", "--quiet"]
    code, _, error = run_kgpt(capsys, *command, *flags)
    assert code == 2 and "give --reward file.py:function" in error
    code, _, error = run_kgpt(capsys, *command, *flags, "--reward", "rewards.py:low_bytes")
    assert code == 0, error
    resolved = Config.load(str(find_run("cli").path / "run.yaml")).grpo
    assert resolved.reward == [f"{files}/rewards.py:low_bytes"]
    assert resolved.prompts == [str(files / "prompts.jsonl")]


def test_prompts_must_be_there_and_fit(files, tmp_path):
    with pytest.raises(UsageError, match="No prompts are named"):
        make_task(make_config(files, prompts=[]))
    task = make_task(make_config(files, max_completion_length=60))
    with pytest.raises(UsageError, match="No prompt leaves room for grpo.max_completion_length 60"):
        task.complete()
    (tmp_path / "rows.jsonl").write_text('{"question": "why?"}\n')
    with pytest.raises(DataError, match="rows.jsonl, line 1: there is no prompt"):
        make_task(make_config(files, prompts=[str(tmp_path / "rows.jsonl")]))


def test_other_prompts_are_refused_when_a_run_is_resumed(files, tmp_path):
    task = make_task(make_config(files))
    changed = (files / "prompts.jsonl").read_text().replace('"limit": 3', '"limit": 4')
    (tmp_path / "changed.jsonl").write_text(changed)
    other = make_task(make_config(files, prompts=[str(tmp_path / "changed.jsonl")]))
    assert other.describe_data().sha256 != task.describe_data().sha256
