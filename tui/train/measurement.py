"""Measured throughput: of earlier runs, and of a few steps run for the purpose."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from kgpt.config import Config
from kgpt.errors import KgptError
from kgpt.runs import Run, all_runs
from kgpt_tui.runs.file_tail import JsonLines
from kgpt_tui.train.cost import Throughput

STEPS, LOG_EVERY = 12, 4  # the first steps include compilation; the median leaves them out
NAME = "these-steps"
POLL_S = 0.3


class MeasurementError(KgptError):
    """The steps could not be run."""


def past_throughputs(limit: int = 40) -> list[Throughput]:
    """The throughput of the latest runs whose directories can be read."""
    try:
        found = [_throughput(run) for run in all_runs()[:limit]]
    except OSError:
        return []
    return [each for each in found if each]


def _throughput(run: Run) -> Throughput | None:
    """The median tokens per second over the first 256 kB of a run's metrics."""
    rows, _ = JsonLines(run.path / "metrics.jsonl").read()
    found = [row["tokens_per_s"] for row in rows if isinstance(row.get("tokens_per_s"), float)]
    backend = run.status().backend
    if not found or not backend:
        return None
    try:
        config = Config.load(str(run.path / "run.yaml"))
        config.model.num_parameters()
    except KgptError:
        return None
    return Throughput(run.name, config, backend, sorted(found)[len(found) // 2])


async def measure_throughput(config: Config, backend: str) -> Throughput:
    """Train a few steps in a temporary directory.

    Raises:
        MeasurementError: the trainer failed.
    """
    train = config.train.model_copy(
        update={
            "max_steps": STEPS, "log_every": LOG_EVERY, "eval_every": 0, "checkpoint_every": 0,
            "sample_every": 0, "tensorboard": False, "tracker": None,
        }
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "measure.yaml"
        file.write_text(config.model_copy(update={"train": train}).to_yaml(), encoding="utf-8")
        error = await _train(file, backend)
        found = _throughput(Run(Path(folder) / NAME))
    if found is None:
        raise MeasurementError(error.rpartition("kgpt: ")[2] or "The steps could not be run.")
    return found


async def _train(file: Path, backend: str) -> str:
    """Run `kgpt train` on a configuration beside whose file the run is put; returns stderr."""
    command = [sys.executable, "-m", "kgpt", "train", str(file), "--run", NAME, "--quiet"]
    environment = os.environ | {"KGPT_RUNS": str(file.parent), "KERAS_BACKEND": backend}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
            env=environment,
        )  # fmt: skip
        try:
            while process.poll() is None:
                await asyncio.sleep(POLL_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        errors.seek(0)
        return errors.read().decode("utf-8", "replace").strip()
