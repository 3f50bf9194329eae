"""`kgpt runs`: list and control runs from any terminal on the machine. No Keras."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kgpt.formatting import NONE, hardware, number
from kgpt.runs import (
    Command,
    Run,
    all_runs,
    family_order,
    find_run,
    fork_mark,
    parent_of,
    runs_folder,
    trial_of,
)

console = Console()


def list_run() -> None:
    """All runs, the latest first; forks follow their parents, trials of a sweep each other."""
    found = all_runs()
    if not found:
        console.print(f"No runs in {runs_folder()} yet; start one with `kgpt train`.")
        return
    table = Table()
    for column in ("run", "state", "step", "loss", "best val", "backend"):
        table.add_column(column, justify="right" if column in ("step", "loss") else "left")
    for run, depth in family_order(found):
        status, rows = run.status(), run.metrics()
        table.add_row(
            Text(fork_mark(depth) + run.name),
            _state(run),
            f"{status.step}/{status.total_steps}",
            number(_last(rows, "loss")),
            number(_best(rows)),
            status.backend,
        )
    console.print(table)


def show_run(run: str) -> None:
    """One run: its state and latest metrics.

    Parameters
    ----------
    run
        The name of the run.
    """
    found = find_run(run)
    status, rows = found.status(), found.metrics()
    table = Table(show_header=False, box=None)
    fields: dict[str, Any] = {
        "state": _state(found),
        "step": f"{status.step} of {status.total_steps} (epoch {status.epoch:.2f})",
        "tokens seen": f"{status.tokens_seen:,}",
        "loss": number(_last(rows, "loss")),
        "validation": f"{number(_last(rows, 'val_loss'))} (best {number(_best(rows))})",
        "speed": f"{_last(rows, 'tokens_per_s') or 0:,.0f} tokens/s",
        "hardware": hardware(rows[-1] if rows else {}) or NONE,
        "runs on": f"{status.backend}, {status.device}, process {status.pid} on {status.host}",
        "checkpoints": ", ".join(map(str, found.checkpoint_steps())) or "none",
        "folder": str(found.path),
    }
    if parent := parent_of(found):
        fields["forked from"] = str(parent)
    if trial := trial_of(found):
        fields["sweep"] = str(trial)
    if status.error:
        fields["error"] = status.error
    for name, value in fields.items():
        table.add_row(Text(name, style="dim"), value if isinstance(value, Text) else Text(value))
    console.print(table)
    if samples := found.samples():
        latest = samples[-1]
        console.print(Text(f"Latest sample, step {latest['step']}:", style="dim"))
        console.print(Text(latest["prompt"] + latest["text"]))


def pause_run(run: str) -> None:
    """Pause a training run.

    Parameters
    ----------
    run
        The name of the run.
    """
    _send(run, "pause")


def resume_run(run: str) -> None:
    """Resume a paused run.

    Parameters
    ----------
    run
        The name of the run.
    """
    _send(run, "resume")


def stop_run(run: str) -> None:
    """Save and stop a training run.

    Parameters
    ----------
    run
        The name of the run.
    """
    _send(run, "stop")


def checkpoint_run(run: str) -> None:
    """Save a checkpoint now.

    Parameters
    ----------
    run
        The name of the run.
    """
    _send(run, "checkpoint")


def sample_run(run: str, *, prompt: str | None = None) -> None:
    """Generate a sample now.

    Parameters
    ----------
    run
        The name of the run.
    prompt
        Its prompt; the run's own prompts if not given.
    """
    _send(run, "sample", **({} if prompt is None else {"prompt": prompt}))


def _send(name: str, command: Command, **details: str) -> None:
    find_run(name).send(command, **details)
    console.print(Text(f"{command}: sent to {name}, which reads it after the current step."))


def _state(run: Run) -> Text:
    status = run.status()
    if status.is_dead:
        return Text("dead", style="red")
    colours = {"training": "green", "finished": "bold", "failed": "red", "paused": "yellow"}
    return Text(status.state, style=colours.get(status.state, ""))


def _last(rows: list[dict[str, Any]], name: str) -> float | None:
    return next((row[name] for row in reversed(rows) if name in row), None)


def _best(rows: list[dict[str, Any]]) -> float | None:
    return min((row["val_loss"] for row in rows if "val_loss" in row), default=None)
