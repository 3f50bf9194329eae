"""What may change when a run is resumed, what is said, and that a refusal changes nothing."""

import json
import shutil

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from kgpt.config import Config, config_changes, is_fixed
from kgpt.data.prepare import prepare
from kgpt.data.shards import TokenDataset
from kgpt.data.sources import Corpus
from kgpt.errors import CheckpointError, DataError, KgptError, RunError
from kgpt.runs import Run, new_run
from kgpt.text.tokenizer import Tokenizer
from kgpt.training.pretraining import describe
from kgpt.training.resume import check_config, check_data, find_resume_point
from tests.training.tiny_runs import Trained, contents, make_config

pytestmark = pytest.mark.backend
SHORT = {"max_steps": 2, "warmup_steps": 0, "checkpoint_every": 0}
LONGER = {"max_steps": 4}


@pytest.fixture(scope="module")
def ended(data, tmp_path_factory):
    """A run of 2 steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGPT_RUNS", str(tmp_path_factory.mktemp("runs")))
        return Trained(make_config(data, train=SHORT), "ended").run


@pytest.fixture
def run(ended):
    """A copy of it, for one test."""
    target = new_run("one")
    shutil.copytree(ended.path, target.path)
    return target


def another(data, folder, text="", tokenizer=None):
    """A data set with the tokenizer of `data`, or another one."""
    (folder / "text.txt").write_text(text or "one two three\n" * 400)
    corpus = Corpus([str(folder / "text.txt")])
    prepare(corpus, tokenizer or Tokenizer.load(data), folder / "other", val_fraction=0.02)
    return folder / "other"


# option, its value when resumed, what is said or why it is refused
ALLOWED = {
    "train.learning_rate": 0.02,
    "train.batch_size": 2,
    "train.grad_accumulation": 2,
    "train.sequence_length": 8,
    "train.seed": 6,
    "train.precision": "bfloat16",
    "train.weight_decay": 0.2,
    "train.max_grad_norm": 0,
    "train.checkpoint_every": 1,
    "train.schedule": "linear",
    "model.dropout": 0.1,
    "sampling.max_tokens": 6,
}
FIXED = {
    "model.num_layers": 2,
    "model.hidden_dim": 32,
    "model.num_heads": 1,
    "model.max_length": 32,
    "model.position": "rotary",
    "model.norm_epsilon": 1e-3,
    "model.vocab_size": 300,
    "model.tie_embeddings": False,
    "train.optimizer": "lion",
    "train.ema_decay": 0.9,
    "train.precision": "float16",
    "data.assistant_only_loss": True,
}


def changed(config, key, value):
    section, name = key.split(".")
    values = config.model_dump()
    values[section][name] = value
    return Config.parse(values)


@pytest.mark.portable
def test_what_may_change_is_said_and_trains_on(data, run):
    """All at once, which is one run: each change in a line, the steps counted on."""
    config = make_config(data, train=SHORT | LONGER)
    for key, value in ALLOWED.items():
        config = changed(config, key, value)
    resumed = Trained(config, "one", resume=True)
    assert (resumed.outcome.state, resumed.outcome.step) == ("finished", 4)
    assert "resuming at step 2 (saved on " in resumed.shown
    lines = [line for line in resumed.shown.splitlines() if " → " in line]
    keys = {line.split()[0] for line in lines}
    assert keys == set(ALLOWED) | {"train.max_steps"}
    assert "train.learning_rate 0.01 → 0.02" in lines
    assert sorted(resumed.losses) == [1, 2, 3, 4]
    assert Config.load(str(run.path / "run.yaml")) == resumed_config(config, run)
    assert run.status().tokens_seen == 2 * 4 * 16 + 2 * 2 * 2 * 8
    state = json.loads((run.checkpoint_path(4) / "trainer_state.json").read_text())
    assert state["step"] == 4 and state["grad_accumulation"] == 2
    optimizer = load_file(run.checkpoint_path(4) / "optimizer.safetensors")
    assert optimizer["optimizer/iteration"] == 4 * 2  # Keras counts batches
    resumed = Trained(changed(config, "train.max_steps", 5), "one", resume=True)
    assert resumed.outcome.step == 5  # not more, for batches counted as steps


def resumed_config(config, run):
    """`config` with what it leaves to the data set."""
    config = changed(config, "data.assistant_only_loss", False)
    config = changed(config, "data.packing", "stream")
    return changed(config, "model.vocab_size", run.data().vocab_size)


@pytest.mark.portable
@pytest.mark.parametrize(("key", "value"), FIXED.items())
def test_what_is_fixed_is_refused_and_the_run_stays_as_it_was(data, run, key, value):
    before = contents(run)
    config = changed(make_config(data, train=SHORT | LONGER), key, value)
    with pytest.raises(RunError, match=rf"has {key} .*, which cannot change to {value} when it"):
        Trained(config, "one", resume=True)
    assert contents(run) == before


def test_averages_may_be_dropped_and_their_decay_changed():
    assert not is_fixed("train.ema_decay", 0.9, 0.0) and not is_fixed("train.ema_decay", 0.9, 0.99)


@pytest.mark.portable
def test_another_data_set_is_refused_by_its_content(data, run, tmp_path):
    other, before = another(data, tmp_path), contents(run)
    config = make_config(other, train=SHORT | LONGER)
    with pytest.raises(DataError, match=r"other \(5,\d\d\d and .* is not the one that the run one"):
        Trained(config, "one", resume=True)
    assert contents(run) == before


@pytest.mark.portable
def test_a_data_set_that_was_moved_is_the_same(data, run, tmp_path):
    shutil.copytree(data, tmp_path / "moved")
    resumed = Trained(make_config(tmp_path / "moved", train=SHORT | LONGER), "one", resume=True)
    assert f"data.dir {data} → {tmp_path / 'moved'}" in resumed.shown
    assert resumed.outcome.step == 4


@pytest.mark.parametrize("old_run", [False, True])
def test_another_tokenizer_is_refused_even_of_a_run_that_did_not_note_its_data(
    data, run, tmp_path, old_run
):
    """Of the same size of vocabulary: characters in another order."""
    letters = "".join(sorted(set("zero one two three four five six seven eight nine\n")))
    tokenizer = Tokenizer.of_characters([letters.swapcase()])
    other = another(data, tmp_path, tokenizer=tokenizer)
    sizes = [TokenDataset(folder).manifest.vocab_size for folder in (data, other)]
    assert sizes[0] == sizes[1]
    if old_run:
        (run.path / "data.json").unlink()
    before = contents(run)
    with pytest.raises(DataError, match=r"tokenizer of .* is not the one that the run one was tr"):
        Trained(make_config(other, train=SHORT | LONGER), "one", resume=True)
    assert contents(run) == before


@pytest.mark.portable
def test_a_run_that_did_not_note_its_data_says_so(data, run):
    (run.path / "data.json").unlink()
    resumed = Trained(make_config(data, train=SHORT | LONGER), "one", resume=True)
    assert "so the data was not compared" in resumed.shown
    assert run.data().train_tokens == TokenDataset(data).manifest.splits["train"].tokens


def test_a_checkpoint_that_does_not_fit_its_run_yaml_says_which_has_what(data, run):
    """A run.yaml that was edited: layers or optimizer are the checkpoint's own."""
    for key, value, sentence in (
        ("model.num_layers", 2, "has model.num_layers 1, but the model .* has 2; give 1"),
        ("train.optimizer", "lion", "state of the optimizer adamw, not of lion; give adamw"),
    ):
        config = changed(make_config(data, train=SHORT | LONGER), key, value)
        run.write_config(config.to_yaml())
        before = contents(run)
        with pytest.raises(CheckpointError, match=sentence):
            Trained(config, "one", resume=True)
        assert contents(run) == before


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_with_nothing_to_do_it_says_so_and_leaves_the_run(data, run, state):
    run.write_status(run.status().model_copy(update={"state": state}))
    before = contents(run)
    resumed = Trained(make_config(data, train=SHORT), "one", resume=True)
    assert resumed.shown == (
        "nothing to do: the run one has 2 of 2 steps; raise --train.max-steps to train it longer\n"
    )
    assert (resumed.outcome.state, resumed.outcome.step) == (state, 2)
    assert contents(run) == before


@pytest.mark.portable
def test_a_warm_up_longer_than_the_run_is_said(data):
    config = make_config(data, train={"max_steps": 1, "warmup_steps": 9, "checkpoint_every": 0})
    shown = Trained(config, "short").shown
    assert "train.warmup_steps is 9, but train.max_steps 1: the learning rate ends at 10%" in shown


@st.composite
def changes(draw):
    """Some options of both tables."""
    table = {**ALLOWED, **FIXED}
    keys = draw(st.lists(st.sampled_from(sorted(table)), max_size=4, unique=True))
    return {key: table[key] for key in keys}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes())
def test_any_change_is_said_or_refused(ended, data, change):
    """Never a traceback, never a change that is neither said nor refused."""
    config = resumed_config(make_config(data, train=SHORT), ended)
    try:
        for key, value in change.items():
            config = changed(config, key, value)
        point = check_config(ended, find_resume_point(ended), config)
    except KgptError:
        assert any(key in FIXED for key in change)
        return
    recorded = Config.parse(yaml.safe_load(ended.config_text()))
    differing = config_changes(recorded, config)
    assert not any(is_fixed(key, *values) for key, values in differing.items())
    said = {note.split()[0] for note in point.notes if " → " in note}
    assert said == set(differing) == set(change)


def test_comparing_is_by_the_checkpoint_that_is_used(ended, data):
    point = find_resume_point(ended)
    assert check_data(ended, point, describe(TokenDataset(data))) == point
    assert point.step == 2 and Run(ended.path).checkpoint_path(2) == point.checkpoint
