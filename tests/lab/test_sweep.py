"""A sweep ends with the same trials however often it is killed; what fails is said and left.

Trials are trained by a stand-in for `kgpt train`, whose loss is a formula; tests/training has the
real one.
"""

import itertools
import json
import os
import re
import signal
import socket
import time
from collections import Counter

import optuna
import pytest

from kgpt.config import Config, SweepConfig
from kgpt.errors import RunError, UsageError
from kgpt.lab.sweeps import sweep as sweep_module
from kgpt.lab.sweeps.coordinates import compared_trials, parallel_axes
from kgpt.lab.sweeps.process import TrialProcess
from kgpt.lab.sweeps.results import read_results
from kgpt.lab.sweeps.settings import SweepSettings
from kgpt.lab.sweeps.study import SweepStudy
from kgpt.lab.sweeps.sweep import Sweep
from kgpt.runs import RunStatus, all_runs, family_order, find_run, new_run, trial_of
from tests.cli.running import kgpt

SPACE = {"train.learning_rate": "1e-3..1:log", "train.batch_size": "2,4"}
HALVING = {"pruner": "halving", "sampler": "random"}
STEPS = 27


class Killed(BaseException):
    """SIGKILL, as far as a process can do that to itself."""


class Trainer:
    """Stands in for the processes of trials.

    Attributes:
        segments: how often each (run, first step, last step) was trained.
        codes: exit codes of the next processes, which train nothing.
        polls: how often each next process is looked at until it has ended.
    """

    def __init__(self):
        self.segments = Counter()
        self.codes = []
        self.polls = itertools.cycle([1])

    def __call__(self, run, file, stop, environment):
        self.run, self.stop, self.environment = run, stop, environment
        code = self.codes.pop(0) if self.codes else self.train(run, file, stop)
        return Process(run, stop, code, next(self.polls))

    def train(self, run, file, stop):
        params, first = trial_of(run).params, max(run.checkpoint_steps(), default=0)
        rate, size = params.get("train.learning_rate", 0), params.get("train.batch_size", 2)
        run.write_config("")
        if rate > 0.5:
            return 1
        for step in range(first + 1, stop + 1):
            loss = (abs(rate - 0.02) + 0.01 / size) / step
            row = {"step": step, "loss": loss}
            run.append("metrics", row | ({"val_loss": loss} if step % 3 == 0 else {}))
        run.checkpoint_path(stop).mkdir(parents=True)
        state = "finished" if stop == STEPS else "stopped"
        run.write_status(RunStatus(state=state, step=stop, total_steps=STEPS))
        self.segments[run.name, first, stop] += 1
        return 0


class Process:
    def __init__(self, run, stop, code, polls):
        self.environment = {}
        self.run, self.stop, self.code, self.polls = run, stop, code, polls

    def poll(self):
        self.polls -= 1
        return None if self.polls > 0 else self.code

    def error(self):
        return "The loss became nan at step 1."

    def send(self, number):
        self.code = 130


@pytest.fixture(autouse=True)
def trainer(monkeypatch):
    made = Trainer()
    monkeypatch.setattr(sweep_module, "TrialProcess", made)
    monkeypatch.setattr(sweep_module, "POLL_S", 0)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr("kgpt.lab.sweeps.settings.TokenDataset", lambda _: None)
    return made


def settings(space=SPACE, train=(), **options):
    values = {"max_steps": STEPS, "eval_every": 3, "min_learning_rate": 0, **dict(train)}
    config = Config.parse({"data": {"dir": "data"}, "train": values})
    return SweepSettings(config, space, SweepConfig(**{"trials": 12} | options))


def outcome(name):
    """The trials without the names of their runs, and the best."""
    results = read_results(name)
    trials = [(t.params, t.state, t.step, t.value, t.error) for t in results.trials]
    return trials, results.best, results.steps, results.importance


def deadly(function, moments):
    """`function`, at times killed before it or after it."""

    def wrapped(*arguments, **keywords):
        if next(moments) == 0:
            raise Killed
        found = function(*arguments, **keywords)
        if next(moments) == 0:
            raise Killed
        return found

    return wrapped


@pytest.mark.parametrize(
    "options",
    [{**HALVING, "trials": 9, "workers": 3}, {"sampler": "tpe", "trials": 12, "workers": 2}],
    ids=["halving", "tpe"],
)
def test_killed_at_any_moment_it_equals_one_never_killed(options, trainer, monkeypatch):
    """Before and after each write to the record, to files and to runs; workers differ in speed."""
    trainer.polls = itertools.cycle([2, 1, 3, 5])
    assert Sweep("whole", settings(**options)).run()
    trainer.polls = itertools.cycle([1, 4, 2])
    lengths = itertools.cycle([2, 14, 21, 9, 18])
    moments = itertools.chain.from_iterable(range(length, -1, -1) for length in lengths)
    with monkeypatch.context() as patch:
        for name in ("add", "report", "end", "_set_state"):
            patch.setattr(SweepStudy, name, deadly(getattr(SweepStudy, name), moments))
        for owner, name in (
            (trainer, "train"), (sweep_module, "write_text"), (sweep_module, "write_trial"),
        ):  # fmt: skip
            patch.setattr(owner, name, deadly(getattr(owner, name), moments))
        lives = 1
        while lives:
            try:
                assert Sweep("killed", settings(**options)).run()
                break
            except Killed:
                lives += 1
    assert lives > 3
    assert outcome("killed") == outcome("whole")
    assert set(trainer.segments.values()) == {1}, "some steps were trained twice"
    segments = Counter(name.rpartition("-")[0] for name, _, _ in trainer.segments)
    assert segments["whole"] == segments["killed"]


def test_halving_finds_the_best_with_a_part_of_the_steps():
    space = SPACE | {"train.learning_rate": "1e-3..0.4:log"}
    Sweep("full", settings(space, sampler="random")).run()
    Sweep("halved", settings(space, **HALVING)).run()
    full, halved = read_results("full"), read_results("halved")
    assert halved.best == full.best
    assert halved.trials[halved.best].value == full.trials[full.best].value
    assert halved.steps <= 0.4 * full.steps and halved.full_steps == full.steps == 12 * STEPS
    states = Counter(trial.state for trial in halved.trials)
    assert states == {"complete": 1, "pruned": 11}
    assert max(full.importance, key=full.importance.get) == "train.learning_rate"
    # The study is Optuna's, so that other programs such as optuna-dashboard can read it.
    file = new_run("halved").path / "study.db"
    study = optuna.load_study(study_name="halved", storage=f"sqlite:///{file}")
    assert study.best_trial.number == halved.best
    assert study.best_value == halved.trials[halved.best].value


def test_trials_are_runs_that_know_their_sweep_and_stand_together(capsys):
    Sweep("find", settings(trials=3, sampler="random")).run()
    new_run("other").write_config("")
    names = [run.name for run, _ in family_order(all_runs())]
    assert sorted(names) == ["find-0000", "find-0001", "find-0002", "other"]
    assert [name for name in names if name != "other"] == sorted(set(names) - {"other"})
    about = trial_of(find_run("find-0002"))
    assert about.sweep == "find" and about.number == 2
    assert about.params == read_results("find").trials[2].params
    assert trial_of(find_run("other")) is None
    assert "find, trial 2: train.learning_rate" in kgpt(capsys, "runs", "show", "find-0002")[1]
    best = read_results("find")
    config = Config.load(best.best_config)
    assert config.train.learning_rate == best.trials[best.best].params["train.learning_rate"]


def test_what_fails_is_said_and_the_sweep_goes_on(trainer):
    space = {"train.learning_rate": "0.01,0.1,0.9", "train.min_learning_rate": "0,0.05"}
    said = []
    Sweep("some", settings(space, trials=None, sampler="grid"), said.append).run()
    results = read_results("some")
    assert [trial.state for trial in results.trials] == [
        "complete", "failed", "complete", "complete", "failed", "failed",
    ]  # fmt: skip
    assert "min_learning_rate 0.05 is above" in results.trials[1].error
    assert results.trials[4].error == "The loss became nan at step 1."
    assert any("trial 4 failed: The loss" in text for text in said)
    assert [trial.run for trial in results.in_order][-1] == "some-0005"
    Sweep("none", settings(trials=1, metric="val_accuracy")).run()
    assert "has logged no val_accuracy; its metrics are loss, val_loss" in (
        read_results("none").trials[0].error
    )


def test_a_killed_trial_goes_on_and_one_that_never_gets_further_fails(trainer):
    trainer.codes = [-9, -9]
    Sweep("killed", settings(trials=1)).run()
    assert read_results("killed").trials[0].state == "complete"
    run = find_run("killed-0000")  # killed once more, after its last checkpoint
    run.write_status(RunStatus(state="saving", pid=2**30, host=socket.gethostname()))
    (new_run("killed").path / "study.db").unlink()
    Sweep("killed", settings(trials=1)).run()
    assert run.status().state == "finished" and trainer.segments.total() == 1
    trainer.codes = [-9, 137, -9]
    Sweep("again", settings(trials=1)).run()
    assert "ended 3 times after step 0" in read_results("again").trials[0].error


def test_it_is_resumed_as_it_was_and_may_grow_where_that_changes_nothing():
    few, more = settings(trials=2, sampler="random"), settings(trials=4, sampler="random")
    Sweep("growing", few).run()
    first = outcome("growing")[0]
    Sweep("growing", more).run()
    assert outcome("growing")[0][:2] == first and len(outcome("growing")[0]) == 4
    fixed = HALVING | {"trials": 3}
    Sweep("fixed", settings(**fixed)).run()
    for other, words in (
        (settings(**fixed | {"trials": 13}), "trials"),
        (settings(**fixed | {"seed": 1}), "seed"),
        (settings({"train.seed": "1,2"}, **fixed), "the space"),
        (settings(train={"weight_decay": 0.5}, **fixed), "train.weight_decay"),
    ):
        with pytest.raises(UsageError, match=f"fixed exists, with another value of {words}"):
            Sweep("fixed", other)
    Sweep("fixed", settings(**fixed | {"workers": 4}))
    new_run("run").write_config("")
    with pytest.raises(RunError, match="run is a run"):
        Sweep("run", few)
    with Sweep("busy", few)._locked(), pytest.raises(RunError, match="already at work"):
        Sweep("busy", few).run()


def test_ctrl_c_saves_the_trials_and_the_sweep_can_be_resumed(trainer, capsys):
    trainer.codes = [None]  # never ends by itself
    sweep = Sweep("stopped", settings(trials=2), lambda _: signal.raise_signal(signal.SIGINT))
    assert not sweep.run()
    assert [trial.state for trial in read_results("stopped").trials] == ["running"]
    code, out, _ = kgpt(capsys, "sweep", "--name", "stopped", "--resume", "--json")
    assert code == 0
    assert [trial["state"] for trial in json.loads(out)["trials"]] == ["complete", "failed"]


def test_a_process_that_outlives_its_sweep_is_waited_for(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o755)
    monkeypatch.setattr("kgpt.lab.sweeps.process.sys.executable", str(script))
    run, config = new_run("trial"), tmp_path / "0000.yaml"
    started = TrialProcess(run, config, 3, {})
    adopted = TrialProcess(run, config, 3, {})
    assert (started.poll(), adopted.poll()) == (None, None) and adopted._process is None
    started.send(signal.SIGKILL)
    started._process.wait()
    for _ in range(500):
        if adopted.poll() is not None:
            break
        time.sleep(0.01)
    assert (started.poll(), adopted.poll()) == (-signal.SIGKILL, -1)


def test_the_command_takes_a_space_of_flags_or_a_file(tmp_path, trainer, capsys):
    file, space = tmp_path / "tiny.yaml", tmp_path / "space.yaml"
    file.write_text(settings().config.to_yaml())
    space.write_text("train:\n  batch_size: [2, 4]\n  optimizer: adamw\n")
    words = ["sweep", file, "--space", space, "--space.train.optimizer", "lion,muon", "--json"]
    words += ["--sampler", "grid", "--quiet", "--train.seed", "4"]
    code, out, err = kgpt(capsys, *words)
    results = json.loads(out)
    assert (code, err, results["sweep"], results["total"]) == (0, "", "tiny-sweep", 4)
    assert [trial["params"] for trial in results["trials"]] == [
        {"train.batch_size": size, "train.optimizer": name}
        for size in (2, 4)
        for name in ("lion", "muon")
    ]
    assert Config.load(results["best_config"]).train.seed == 4
    before = trainer.segments.total()
    shown = kgpt(capsys, *[word for word in words if word not in ("--json", "--quiet")])[1]
    assert trainer.segments.total() == before and "tiny-sweep-0003" in shown
    for words, sentence in (
        (["sweep", file], "The space is empty"),
        (["sweep", file, "--space.train.sed", "1,2"], "did you mean train.seed"),
        (["sweep", file, "--space.train.seed"], "needs a range"),
        (["sweep", "--resume"], "Name the sweep"),
        (["sweep", "--name", "gone", "--resume"], "no sweep gone to resume"),
        (["sweep", file, "--name", "x", "--resume"], "give only --name"),
    ):
        code, _, err = kgpt(capsys, *words)
        assert code in (1, 2) and sentence in err


def test_results_are_drawn_in_text_as_png_and_as_a_page_that_loads_nothing(tmp_path, capsys):
    space = SPACE | {"train.beta_2": {"values": [0.9, 0.99], "when": {"train.batch_size": 4}}}
    Sweep("drawn", settings(space, **HALVING | {"trials": 6})).run()
    results = read_results("drawn")
    trials = compared_trials(results)
    assert [trial.compared for trial in trials] == sorted(
        (trial.compared for trial in trials), reverse=True
    )
    rate, size, beta, metric = parallel_axes(results, trials)
    assert metric.places[0] == 1 and metric.places[-1] == 0 and size.ticks == [(0, "2"), (1, "4")]
    assert [place is None for place in beta.places] == [place == 0 for place in size.places]
    for trial, place in zip(trials, rate.places, strict=True):
        assert 1e-3 * 1000**place == pytest.approx(trial.params["train.learning_rate"])
    out = kgpt(
        capsys, "sweep", "--name", "drawn", "--resume",
        "--png", tmp_path / "a.png", "--html", tmp_path / "a.html",
    )[1]  # fmt: skip
    assert all(words in out for words in ("History", "Importance", "learning_rate", "drawn-0005"))
    assert f"kgpt train {results.best_config}" in out
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"
    html = (tmp_path / "a.html").read_text()
    assert re.findall(r'(?:src|href)="([^"]{10})', html) == ["data:image"]
    assert "http" not in html and "drawn-0005" in html and "nan at step 1" in html
