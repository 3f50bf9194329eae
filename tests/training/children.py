"""`kgpt train` in processes of its own, one backend each, to be compared, stopped and killed."""

import os
import subprocess
import sys
from pathlib import Path

from kgpt.config import Config
from kgpt.runs import Run

BACKENDS = ("tensorflow", "jax", "torch")


def start(folder: Path, config: Config, run: str, backend: str, *options: str) -> subprocess.Popen:
    """Begin `kgpt train` on `config` in `folder`; runs are in its runs/.

    Compiled programs are kept in its cache/, as a user's are: a trainer that is killed while it
    writes one must harm no other.
    """
    file = folder / f"{run}.yaml"
    file.write_text(config.to_yaml())
    command = [sys.executable, "-m", "kgpt", "train", str(file), "--run", run, "--quiet", *options]
    environment = os.environ | {"KERAS_BACKEND": backend, "KGPT_RUNS": str(folder / "runs")}
    environment["KGPT_CACHE"] = str(folder / "cache")
    for name in ("KGPT_RESTARTED", "KGPT_COMPILATION_CACHE"):
        environment.pop(name, None)
    with (folder / f"{run}.err").open("a") as errors:
        return subprocess.Popen(
            command, env=environment, stdout=errors, stderr=errors, cwd=Path(__file__).parents[2]
        )


def finish(folder: Path, config: Config, run: str, backend: str, *options: str) -> Run:
    """Train to the end; returns the run."""
    code = start(folder, config, run, backend, *options).wait(timeout=900)
    assert code == 0, (folder / f"{run}.err").read_text()
    return Run(folder / "runs" / run)


def losses(run: Run) -> dict[int, float]:
    """The loss of each step."""
    return {row["step"]: row["loss"] for row in run.metrics()}
