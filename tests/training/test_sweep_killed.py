"""A sweep killed five times, itself or its trials, equals one never killed; halving finds the best.

Processes of `kgpt sweep` and `kgpt train`, as a user has them.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kgpt.runs import Run
from tests.training.tiny_runs import make_config

pytestmark = [pytest.mark.backend, pytest.mark.portable, pytest.mark.slow]

TRIALS, KILLS, STEPS = 12, 5, 81
ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(data, tmp_path):
    train = {
        "max_steps": STEPS, "eval_every": 9, "log_every": 9, "checkpoint_every": 4,
        "min_learning_rate": 0,
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(make_config(data, train=train).to_yaml())
    return tmp_path


def start(folder, name, *options):
    """Begin `kgpt sweep`; what it prints is in NAME.json and NAME.err."""
    words = [sys.executable, "-m", "kgpt", "sweep", str(folder / "tiny.yaml"), "--name", name]
    words += ["--space.train.learning-rate", "2e-4..2e-2:log", "--space.model.hidden-dim", "8,16"]
    words += ["--trials", str(TRIALS), "--sampler", "random", "--workers", "2", "--json", *options]
    environment = os.environ | {"KGPT_RUNS": str(folder / "runs")}
    with (folder / f"{name}.json").open("w") as out, (folder / f"{name}.err").open("a") as err:
        return subprocess.Popen(words, env=environment, stdout=out, stderr=err, cwd=ROOT)


def finish(folder, name, *options):
    """Go on to the end; the results without what depends on the name."""
    code = start(folder, name, *options).wait(timeout=1500)
    assert code == 0, (folder / f"{name}.err").read_text()
    results = json.loads((folder / f"{name}.json").read_text())
    for trial in results["trials"]:
        trial["metrics"] = metrics(Run(folder / "runs" / trial.pop("run")))
    return {key: value for key, value in results.items() if key not in ("sweep", "best_config")}


def metrics(run):
    """The losses of the steps that every run logs, wherever it was resumed."""
    return {
        row["step"]: (row["loss"], row.get("val_loss"))
        for row in run.metrics()
        if row["step"] % 9 == 0
    }


def trained(folder, name):
    """Steps of checkpoints, over all trials."""
    runs = (folder / "runs").glob(f"{name}-*")
    return sum(max(Run(path).checkpoint_steps(), default=0) for path in runs)


def test_killed_five_times_it_equals_one_never_killed_and_halving_finds_the_best(folder):
    whole = finish(folder, "whole", "--pruner", "halving")
    moments = random.Random(1)
    for life in range(KILLS):
        process = start(folder, "killed", "--pruner", "halving")
        target = whole["steps"] * (life + 1) // (KILLS + 1)
        while trained(folder, "killed") < target:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.3))
        if life != 2:  # else only a trial is killed, and the sweep goes on by itself
            process.kill()
            process.wait()
        if life in (1, 2, 3):
            kill_trials(folder, "killed")
        if life == 2:
            time.sleep(3)
            process.kill()
            process.wait()
    assert finish(folder, "killed", "--pruner", "halving") == whole
    full = finish(folder, "full", "--pruner", "none")
    assert full["best"] == whole["best"]
    best = [results["trials"][whole["best"]] for results in (whole, full)]
    for trial in best:
        del trial["compared"]  # at the first rung, or at the end
    assert best[0] == best[1] and len(best[0]["metrics"]) == STEPS // 9
    assert whole["steps"] <= 0.4 * full["steps"]


def kill_trials(folder, name):
    for path in (folder / "runs").glob(f"{name}-*"):
        if (run := Run(path)).is_active:
            os.kill(run.status().pid, signal.SIGKILL)
