"""`kgpt distill` and `kgpt bench draft`: students of three kinds, and what a draft gains."""

import json

import pytest

from kgpt.config import Config, ModelConfig, draft_of
from kgpt.generation.bench_draft import measure_draft
from kgpt.runs import new_run
from tests.cli.running import kgpt
from tests.tiny import tiny_config, tiny_model, write_tiny_model

SHORT = (
    "--train.max-steps", "1", "--train.batch-size", "2", "--train.sequence-length", "8",
    "--train.sample-every", "0", "--train.eval-every", "0", "--train.warmup-steps", "0",
)  # fmt: skip


@pytest.fixture
def teacher(data, tmp_path):
    return write_tiny_model(tmp_path / "teacher", "llama", num_layers=4)


def distill(capsys, *options):
    return kgpt(capsys, "distill", "--data", "set", *options, *SHORT)


def config_of(run):
    return Config.load(str(new_run(run).path / "run.yaml"))


def test_a_draft_is_trained_and_measured(teacher, capsys):
    code, out, err = distill(capsys, "--teacher", teacher, "--draft", "--run", "draft")
    assert code == 0, err
    assert "of the drafted tokens" in out and "tokens per verification" in out
    config = config_of("draft")
    assert (config.model.num_layers, config.model.hidden_dim) == (1, 16)
    assert config.finetune.objective == "distill" and config.distill.teacher == str(teacher)
    sizes = ("--prompts", "2", "--prompt-tokens", "4", "--new-tokens", "8")
    pair = ("--model", teacher, "--draft-model", teacher, "--data", "set")
    code, out, _ = kgpt(capsys, "bench", "draft", *pair, *sizes, "--json")
    figures = json.loads(out)
    assert code == 0 and figures["acceptance_rate"] == 1 and figures["tokens"] == 16


def test_a_student_may_be_a_model(teacher, tmp_path, capsys):
    student = write_tiny_model(tmp_path / "student", "gpt2", num_layers=1)
    options = ("--teacher", teacher, "--student", student, "--distill.top-k", "5", "--run", "on")
    assert distill(capsys, *options)[0] == 0
    assert config_of("on").model == ModelConfig.model_validate(tiny_config(num_layers=1))
    assert kgpt(capsys, "distill", "--run", "on", "--resume", "--train.max-steps", "2")[0] == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "No teacher is named"),
        (("--teacher", "teacher", "--student", "lama-tiny"), "did you mean llama-tiny"),
        (("--teacher", "teacher", "--draft", "--student", "llama-tiny"), "leave --student out"),
        (("--teacher", "nowhere"), "nowhere"),
    ],
)
def test_what_is_wrong_is_said(options, sentence, teacher, capsys):
    code, _, err = distill(capsys, *options)
    assert code in (1, 2) and sentence in err and err.count("\n") == 1


def test_a_draft_has_the_architecture_of_its_model():
    for name in ("gpt2", "llama", "one-kv-head", "qk-norm"):
        model = tiny_config(name, num_layers=8)
        draft = draft_of(model)
        assert (draft.num_layers, draft.head_dim) == (2, model.head_dim)
        assert draft.num_parameters() < model.num_parameters() / 2
        assert (draft.vocab_size, draft.norm) == (model.vocab_size, model.norm)


@pytest.mark.backend
@pytest.mark.portable
def test_a_wrong_draft_is_counted_as_such():
    model, other = tiny_model("gpt2", noise=0.5), tiny_model("gpt2", seed=2, noise=0.0)
    figures = measure_draft(model, other, [[1, 2, 3]], 12)
    assert figures["acceptance_rate"] < 1 and figures["tokens"] == 12
    assert 1 <= figures["tokens_per_verification"] < 7
