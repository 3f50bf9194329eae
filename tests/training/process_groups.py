"""`kgpt train` in several processes that train one run."""

import os
import subprocess
import sys
import time
from pathlib import Path

from kgpt.config import Config
from kgpt.runs import Run
from tests.training.children import losses
from tests.training.tiny_runs import make_config

STEPS = 60
BOUND = 1e-5  # of the loss at the start: sums over processes are in another order


def run_config(data: Path) -> Config:
    """60 steps with dropout, validation, checkpoints and samples."""
    train = {"max_steps": STEPS, "checkpoint_every": 4, "eval_every": 20, "eval_batches": 3}
    return make_config(data, model={"dropout": 0.1}, train=train | {"sample_every": 20})


class Group:
    """Processes that train one run, with their output in a file each."""

    def __init__(self, folder, run, commands):
        self.run, self.files = Run(folder / "runs" / run), []
        environment = os.environ | {"KGPT_RUNS": str(folder / "runs"), "PYTHONUNBUFFERED": "1"}
        environment.pop("KGPT_RESTARTED", None)
        self.processes = []
        for number, command in enumerate(commands):
            self.files.append(folder / f"{run}-{number}.out")
            with self.files[-1].open("a") as out:
                words = [sys.executable, "-m", "kgpt", *command]
                options = {"env": environment, "stdout": out, "stderr": out}
                root = Path(__file__).parents[2]
                self.processes.append(subprocess.Popen(words, cwd=root, **options))

    def wait_for_step(self, step):
        while len(self.run.metrics()) < step:
            assert all(p.poll() is None for p in self.processes), self.output
            time.sleep(0.01)

    def wait(self, timeout=300):
        return [process.wait(timeout) for process in self.processes]

    @property
    def output(self):
        return "".join(file.read_text() for file in self.files)


def launch(folder, config, run, processes, *options, launcher=None):
    file = folder / f"{run}.yaml"
    file.write_text(config.to_yaml())
    train = ["train", str(file), "--run", run, *options]
    launcher = launcher or ["--processes", str(processes)]
    return Group(folder, run, [["launch", *launcher, "--", *train]])


def assert_close(whole, run):
    """The losses of both, at each step, are within the bound."""
    for loss in ("loss", "val_loss"):
        pairs = zip(whole.metrics(), run.metrics(), strict=True)
        apart = [abs(a[loss] - b[loss]) for a, b in pairs if loss in a]
        assert max(apart) <= BOUND * losses(whole)[1], f"{loss} is {max(apart)} apart"
