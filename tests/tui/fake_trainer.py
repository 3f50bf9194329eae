"""Run directories as a trainer writes them, made in an instant."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from pathlib import Path
from typing import Any

from kgpt.config import Config
from kgpt.runs import Run, RunStatus

POEM = "The fox went to the river. It was cold there, and the water said nothing at all. "


def make_run(
    folder: Path, name: str = "fox", step: int = 400, total: int = 1000, *, state: str = "training",
    pid: int | None = None, every: int = 10, age_s: float = 0.0, error: str | None = None,
    samples: bool = True, checkpoints: bool = True, **changes: object,
) -> Run:  # fmt: skip
    """A run in `folder` at `step`; `changes` are options such as train__seed=3."""
    config = Config.parse({"model": {"vocab_size": 512}, "data": {"dir": "data/tiny"}})
    values = config.model_dump()
    values["train"]["max_steps"] = total
    for key, value in changes.items():
        section, _, option = key.partition("__")
        values[section][option] = value
    run = Run(folder / name)
    run.path.mkdir(parents=True)
    run.write_config(Config.parse(values).to_yaml())
    now = time.time() - age_s
    with (run.path / "metrics.jsonl").open("w") as file:
        for at in range(1, step + 1):
            if at == 1 or at % every == 0:
                file.write(json.dumps(metric(at, now - (step - at) * 0.05, total)) + "\n")
    if samples:
        for at in range(100, step + 1, 100):
            add_sample(run, at)
    run.log.write_text("".join(f"step {at}: all is well\n" for at in range(0, step, 50)))
    if checkpoints and step >= 100:
        for at in (step // 200 * 100 or 100, step // 100 * 100):
            run.checkpoint_path(at).mkdir(parents=True, exist_ok=True)
            run.set_pointer("latest", at)
        run.set_pointer("best", step // 100 * 100)
    set_status(run, state=state, step=step, total_steps=total, pid=pid, now=now, error=error)
    return run


def metric(step: int, when: float, total: int) -> dict[str, float]:
    """A row of metrics with a loss that falls and fluctuates."""
    loss = 1.2 + 3.0 * math.exp(-step / 150) + 0.08 * math.sin(step * 1.7)
    row = {
        "step": step,
        "time": round(when, 3),
        "loss": loss,
        "lr": 1e-3 * (1 - step / total / 1.2),
    }
    row |= {"grad_norm": 0.6 + 0.3 * math.cos(step), "tokens_per_s": 14000 + 900 * math.sin(step)}
    if step % 100 == 0:
        row |= {"val_loss": loss + 0.1, "val_perplexity": math.exp(loss + 0.1)}
        row |= {"val_bits_per_byte": (loss + 0.1) / 2}
    return row


def add_sample(run: Run, step: int, prompt: str = "It was Monday.") -> None:
    text = " " + POEM * (1 + min(step, 2000) // 300)
    run.append("samples", {"step": step, "prompt": prompt, "text": text, "sampling": {}})


def set_status(
    run: Run, *, now: float | None = None, pid: int | None = None, **fields: Any
) -> None:
    """Write status.json as an active trainer would, with the id of this process."""
    now = time.time() if now is None else now
    step, total = fields.get("step", 0), fields.get("total_steps", 0)
    run.write_status(
        RunStatus(
            heartbeat=now,
            pid=os.getpid() if pid is None else pid,
            host=socket.gethostname(),
            backend="jax",
            device="cpu (2 cores)",
            tokens_seen=step * 3072,
            epoch=step / 700,
            eta_s=None if fields.get("state") in ("finished", "stopped") else (total - step) * 0.05,
            **fields,
        )
    )


def dead_pid() -> int:
    """The id of a process that has ended."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return child
