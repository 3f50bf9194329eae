"""Model directories, checkpoints and runs written by the first version of kgpt are still read.

`tests/legacy` holds what that version wrote, with `generated.json`: the token ids that it generated
after the prompt "Where is the ", greedily and sampled with a seed.
"""

import json
import shutil
from pathlib import Path

import pytest

from kgpt.checkpoints.pretrained import load_model
from kgpt.checkpoints.quantized import quantization_of
from kgpt.cli import main
from kgpt.config import Config, SamplingConfig
from kgpt.data.shards import TokenDataset
from kgpt.generation.generator import TextGenerator
from kgpt.runs import Run, resolve_model
from kgpt.training.checkpoint import verify

pytestmark = pytest.mark.backend
LEGACY = Path(__file__).parent / "legacy"
CHECKPOINTS = LEGACY / "runs" / "legacy" / "checkpoints"
MODELS = {
    "step-00000010": CHECKPOINTS / "step-00000010",
    "step-00000020": CHECKPOINTS / "step-00000020",
    "int8": LEGACY / "models" / "int8",
    "own": LEGACY / "models" / "own",
}
PROMPT = "Where is the "
SAMPLING = {
    "greedy": SamplingConfig(temperature=0, max_tokens=12),
    "sampled": SamplingConfig(temperature=0.8, top_p=0.95, seed=7, max_tokens=12),
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A copy of the run and its data set, in the working directory."""
    shutil.copytree(LEGACY / "runs", tmp_path / "runs")
    shutil.copytree(LEGACY / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kgpt.cli.train.prepare_process", lambda *_: None, raising=False)
    return Run(tmp_path / "runs" / "legacy")


def kgpt(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


@pytest.mark.portable
@pytest.mark.parametrize("name", MODELS)
def test_a_model_generates_the_recorded_tokens(name):
    recorded = json.loads((LEGACY / "generated.json").read_text())[name]
    with TextGenerator(MODELS[name]) as generator:
        found = {kind: generator.generate(PROMPT, s).token_ids for kind, s in SAMPLING.items()}
    assert found == recorded


def test_the_kinds_of_model_directories_are_told_apart():
    assert quantization_of(MODELS["int8"])["bits"] == 8
    assert quantization_of(MODELS["own"]) is None
    config = load_model(MODELS["own"]).config
    assert (config.position, config.qk_norm, config.mlp_bias) == ("sinusoidal", True, False)


def test_a_run_is_read(run):
    assert run.checkpoint_steps() == [10, 20]
    assert resolve_model("legacy") == Path("runs/legacy/checkpoints/step-00000020").absolute()
    assert run.status().state == "finished"
    assert [row["step"] for row in run.metrics()] == [1, 5, 10, 15, 20]
    for step in run.checkpoint_steps():
        verify(run.checkpoint_path(step))


def test_renamed_options_of_a_run_are_migrated(run):
    config = Config.load(str(run.path / "run.yaml"))
    assert config.train.max_grad_norm == 0.5
    assert config.train.ema_decay == 0.9
    assert config.data.assistant_only_loss is True
    assert config.sampling.bad_words == ["cup"]


def test_the_data_set_of_a_run_is_read(run):
    data = TokenDataset(run.path.parents[1] / "data")
    assert len(data.tokens("train")) == len(data.loss_mask("train")) == 3664


def test_info_tells_the_step(run, capsys):
    assert kgpt("info", "legacy@10", "--json") == 0
    provenance = json.loads(capsys.readouterr().out)["provenance"]
    assert provenance["step"] == 10
    assert provenance["val_loss"] == pytest.approx(3.7136, abs=1e-4)


@pytest.mark.portable
def test_training_resumes_with_the_recorded_losses(run):
    recorded = {row["step"]: row for row in run.metrics()}
    shutil.rmtree(run.checkpoint_path(20))
    assert kgpt("train", run.path / "run.yaml", "--run", "legacy", "--resume", "--quiet") == 0
    resumed = {row["step"]: row for row in run.metrics()}
    assert list(resumed) == [1, 5, 10, 11, 15, 20]  # the first step after resuming is logged too
    for step, names in {15: ("loss", "lr", "grad_norm"), 20: ("loss", "lr", "val_loss")}.items():
        for name in names:
            assert resumed[step][name] == pytest.approx(recorded[step][name], rel=1e-4)
    assert run.samples()[-1]["text"] == "ee              "
    assert (run.checkpoint_path(20) / "trainer_state.json").is_file()
