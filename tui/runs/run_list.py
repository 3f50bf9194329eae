"""All runs with the metrics that a table shows, and how their configurations differ."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kgpt.runs import Run, RunStatus, all_runs, family_order
from kgpt_tui.runs.metrics import RunSummary
from kgpt_tui.runs.run_config import flat_config
from kgpt_tui.runs.run_state import ACTIVE_STATES, effective_state

SHORT = {"learning_rate": "lr", "batch_size": "batch", "num_layers": "layers", "num_heads": "heads",
         "hidden_dim": "width", "max_steps": "steps", "max_length": "context"}  # fmt: skip


@dataclass
class RunRow:
    """One run of the list."""

    run: Run
    status: RunStatus
    state: str  # its effective state
    summary: RunSummary
    config: dict[str, Any]
    modified: float  # seconds since 1970
    depth: int = 0  # in the tree of forks

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE_STATES

    @property
    def age_s(self) -> float:
        return max(0.0, time.time() - self.modified)


class RunList:
    """The runs of the runs folder: active ones first, forks after their parents.

    `refresh` brings it up to date.
    """

    def __init__(self) -> None:
        self.rows: list[RunRow] = []
        self.problem = ""
        self._summaries: dict[Path, RunSummary] = {}
        self._configs: dict[Path, tuple[float, dict[str, Any]]] = {}

    async def refresh(self, should_read: Callable[[], bool] = lambda: True) -> None:
        """Read every run once; a run that vanishes meanwhile is left out.

        Metrics are read only while `should_read()`, since long ones take a while.
        """
        rows = []
        for run in self._find():
            summary = self._summaries.setdefault(run.path, RunSummary(run.path / "metrics.jsonl"))
            while should_read() and summary.read():
                await asyncio.sleep(0)
            status = run.status()
            state = effective_state(run, status)
            if state != "gone":
                config = self._config(run)
                rows.append(RunRow(run, status, state, summary, config, run.last_modified))
            await asyncio.sleep(0)
        self._summaries = {row.run.path: row.summary for row in rows}
        self.rows = _in_families(sorted(rows, key=lambda row: not row.is_active))

    def _find(self) -> list[Run]:
        try:
            self.problem = ""
            return all_runs()
        except OSError as error:
            self.problem = f"The runs cannot be read: {error.strerror or error}."
            return []

    def _config(self, run: Run) -> dict[str, Any]:
        try:
            modified = (run.path / "run.yaml").stat().st_mtime
        except OSError:
            return {}
        known = self._configs.get(run.path)
        if known is None or known[0] != modified:
            known = self._configs[run.path] = (modified, flat_config(run))
        return known[1]


def _in_families(rows: list[RunRow]) -> list[RunRow]:
    """Forks after the runs that they were forked from."""
    by_path = {row.run.path: row for row in rows}
    return [
        replace(by_path[run.path], depth=depth)
        for run, depth in family_order([row.run for row in rows])
    ]


def differing_keys(configs: list[dict[str, Any]]) -> list[str]:
    """Keys whose value is not the same in all configurations, in order.

    >>> differing_keys([{"a": 1, "b": 2}, {"a": 1, "b": 3}])
    ['b']
    """
    known = [config for config in configs if config]
    keys = dict.fromkeys(key for config in known for key in config)
    return [k for k in keys if len({repr(config.get(k)) for config in known}) > 1]


def differences(row: RunRow, keys: list[str]) -> str:
    """The values of `keys` in one line: `lr 0.002, layers 4`."""
    names = [(key.split(".", 1)[1], row.config.get(key)) for key in keys if row.config]
    return ", ".join(f"{SHORT.get(name, name)} {_short(value)}" for name, value in names)


def _short(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
