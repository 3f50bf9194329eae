"""Speeds that were measured: by earlier runs, and by a few steps taken for the purpose."""

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
from kgpt_tui.runs.metrics import JsonLines
from kgpt_tui.train.cost import Speed

STEPS, EVERY = 12, 4  # the first rows pay for compilation and are left out
POLL_S = 0.3


class MeasurementFailed(KgptError):
    """The few steps did not run."""


def earlier_speeds(limit: int = 40) -> list[Speed]:
    """What the latest runs reached, as far as their folders can be read."""
    try:
        speeds = [_speed(run) for run in all_runs()[:limit]]
    except OSError:
        return []
    return [speed for speed in speeds if speed]


def _speed(run: Run) -> Speed | None:
    """The latest tokens a second of a run; its beginning, 256 kB of rows, is enough."""
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
    return Speed(run.name, config, backend, sorted(found)[len(found) // 2])


async def measure(config: Config, backend: str) -> Speed:
    """Train a few steps in a folder that is thrown away; raises `MeasurementFailed`."""
    train = config.train.model_copy(
        update={
            "max_steps": STEPS, "log_every": EVERY, "eval_every": 0, "checkpoint_every": 0,
            "sample_every": 0, "tensorboard": False, "tracker": None,
        }
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "measure.yaml"
        file.write_text(config.model_copy(update={"train": train}).to_yaml(), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "kgpt",
            "train",
            str(file),
            "--run",
            "these-steps",
            "--quiet",
        ]
        environment = os.environ | {"KGPT_RUNS": folder, "KERAS_BACKEND": backend}
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env=environment,
        )  # fmt: skip
        try:
            while process.poll() is None:
                await asyncio.sleep(POLL_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        speed = _speed(Run(Path(folder) / "these-steps"))
        if speed is None:
            said = (process.stderr.read() if process.stderr else b"").decode("utf-8", "replace")
            raise MeasurementFailed(
                said.strip().rpartition("kgpt: ")[2] or "The steps did not run."
            )
    return speed
