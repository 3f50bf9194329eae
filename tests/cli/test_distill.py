"""`kgpt distill` and `kgpt bench draft`: students of three kinds, and what a draft gains."""

import json
import re

import pytest

from kgpt.config import Config, ModelConfig, SamplingConfig, draft_of
from kgpt.errors import UsageError
from kgpt.generation.bench_draft import measure_draft
from kgpt.generation.sequence import Request
from kgpt.generation.speculative import DraftStats, speculative_decode
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


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--prompt-tokens", "30"), "The context of .* is 32 tokens; lower --prompt-tokens"),
        (("--prompt-tokens", "9999"), "set has .* tokens to take prompts from; 9999 needed"),
        (("--new-tokens", "1"), "--new-tokens 2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, sentence, teacher, capsys, monkeypatch):
    for name in ("prepare_process", "silence_native_code"):  # which take standard error away
        monkeypatch.setattr(f"kgpt.cli.bench_draft.{name}", lambda *_: None)
    pair = ("--model", teacher, "--draft-model", teacher, "--data", "set")
    code, _, err = kgpt(capsys, "bench", "draft", *pair, *options)
    assert code == 2 and re.search(sentence, err) and err.count("\n") == 1


def test_a_draft_of_another_vocabulary_is_refused():
    with pytest.raises(UsageError, match="draft has 99 tokens, but the model 259"):
        measure_draft(tiny_model(), tiny_model(vocab_size=99), [[1]], 2)


@pytest.mark.backend
@pytest.mark.portable
def test_drafts_are_counted_by_what_the_model_accepts():
    """All of those of the model itself: 7 tokens a verification, its own one among them."""
    model, other = tiny_model("gpt2", noise=0.5), tiny_model("gpt2", seed=2, noise=0.0)
    prompts = [[1, 2, 3], [9, 8]]
    figures = measure_draft(model, model, prompts, 14, temperature=0.7)
    assert (figures["acceptance_rate"], figures["tokens_per_verification"]) == (1, 7)
    assert figures["tokens"] == 28
    ratio = figures["tokens_per_s_with_draft"] / figures["tokens_per_s"]
    assert figures["speedup"] == pytest.approx(ratio)
    wrong, stats = measure_draft(model, other, prompts, 14, temperature=0.7), DraftStats()
    for seed, ids in enumerate(prompts):
        sampling = SamplingConfig(temperature=0.7, max_tokens=14)
        list(speculative_decode(model, Request(ids, sampling, seed=seed), other, stats=stats))
    assert wrong["acceptance_rate"] == stats.accepted / stats.drafted < 1
    assert wrong["tokens_per_verification"] == 1 + stats.accepted / stats.steps < 7
