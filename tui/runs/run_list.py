"""All runs with the figures a table shows, and how their configurations differ."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgpt.runs import Run, RunStatus, all_runs
from kgpt_tui.runs.metrics import Glance
from kgpt_tui.runs.run_monitor import LIVELY, condition
from kgpt_tui.runs.run_settings import flat_config

SHORT = {"learning_rate": "lr", "batch_size": "batch", "num_layers": "layers", "num_heads": "heads",
         "hidden_dim": "width", "max_steps": "steps", "max_length": "context"}  # fmt: skip


@dataclass
class Row:
    """One run of the list."""

    run: Run
    status: RunStatus
    condition: str
    glance: Glance
    config: dict[str, Any]
    touched: float

    @property
    def is_alive(self) -> bool:
        return self.condition in LIVELY

    @property
    def age_s(self) -> float:
        return max(0.0, time.time() - self.touched)


class RunList:
    """The runs of the runs folder; `refresh` brings it up to date."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.problem = ""
        self._glances: dict[Path, Glance] = {}
        self._configs: dict[Path, tuple[float, dict[str, Any]]] = {}

    async def refresh(self, wanted: Callable[[], bool] = lambda: True) -> None:
        """Look at every run once; a run that vanishes meanwhile is left out.

        The reading of long metrics waits while the list is not `wanted`.
        """
        rows = []
        for run in self._found():
            glance = self._glances.setdefault(run.path, Glance(run.path / "metrics.jsonl"))
            while wanted() and glance.read():
                await asyncio.sleep(0)
            status = run.status()
            found = condition(run, status)
            if found != "gone":
                config = self._config(run)
                rows.append(Row(run, status, found, glance, config, run.last_touched))
            await asyncio.sleep(0)
        self._glances = {row.run.path: row.glance for row in rows}
        self.rows = sorted(rows, key=lambda row: not row.is_alive)

    def _found(self) -> list[Run]:
        try:
            self.problem = ""
            return all_runs()
        except OSError as error:
            self.problem = f"The runs cannot be read: {error.strerror or error}."
            return []

    def _config(self, run: Run) -> dict[str, Any]:
        try:
            stamp = (run.path / "run.yaml").stat().st_mtime
        except OSError:
            return {}
        known = self._configs.get(run.path)
        if known is None or known[0] != stamp:
            known = self._configs[run.path] = (stamp, flat_config(run))
        return known[1]


def differing_keys(configs: list[dict[str, Any]]) -> list[str]:
    """Keys that do not have the same value everywhere, in their order.

    >>> differing_keys([{"a": 1, "b": 2}, {"a": 1, "b": 3}])
    ['b']
    """
    known = [config for config in configs if config]
    keys = dict.fromkeys(key for config in known for key in config)
    return [k for k in keys if len({repr(config.get(k)) for config in known}) > 1]


def differences(row: Row, keys: list[str]) -> str:
    """What is this run's own, in a line: `lr 0.002, layers 4`."""
    names = [(key.split(".", 1)[1], row.config.get(key)) for key in keys if row.config]
    return ", ".join(f"{SHORT.get(name, name)} {_short(value)}" for name, value in names)


def _short(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
