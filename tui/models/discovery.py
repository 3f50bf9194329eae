"""Finds models, data sets and text files below the working directory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgpt.runs import Run, all_runs, runs_folder

DEPTH = 3  # folders below the working directory that are searched
FOLDERS = 2000  # at most, so that a search of a home directory ends
SKIPPED = {"node_modules", "__pycache__", "site-packages", "checkpoints", "control"}
ADAPTER_CONFIG = "adapter_config.json"
TEXT_SUFFIXES = (".txt", ".md", ".jsonl", ".csv", ".parquet", ".txt.gz", ".jsonl.gz")


@dataclass(frozen=True)
class FoundModel:
    """A model to chat with; `source` is a value of `--model`."""

    source: str
    kind: str  # "run" or "directory"
    detail: str
    modified: float


@dataclass(frozen=True)
class FoundData:
    """A data set made by `kgpt data prepare`."""

    folder: Path
    vocab_size: int
    tokens: int

    @property
    def detail(self) -> str:
        return f"{self.tokens:,} tokens, vocabulary {self.vocab_size:,}"


def models(root: Path | None = None) -> list[FoundModel]:
    """Runs with a checkpoint, then model directories, each the latest first."""
    runs = [model for run in _runs() if (model := _of_run(run))]
    runs_root = runs_folder().resolve()
    folders = [
        _of_folder(folder)
        for folder in _folders(root or Path())
        if any(os.path.isfile(folder / name) for name in ("config.json", ADAPTER_CONFIG))
        and runs_root not in folder.resolve().parents
    ]
    found = [model for model in folders if model]
    return runs + sorted(found, key=lambda model: -model.modified)


def data_sets(root: Path | None = None) -> list[FoundData]:
    """Data sets below `root`, by name."""
    found = (read_data_set(folder) for folder in _folders(root or Path()))
    return sorted((data for data in found if data), key=lambda data: str(data.folder))


def read_data_set(folder: Path) -> FoundData | None:
    """The data set in `folder`, or None."""
    manifest = _json(folder / "manifest.json")
    try:
        return FoundData(
            folder, int(manifest["vocab_size"]), int(manifest["splits"]["train"]["tokens"])
        )
    except (KeyError, TypeError, ValueError):
        return None


def texts(root: Path | None = None) -> list[Path]:
    """Text files below `root`, 200 at most."""
    found = (
        folder / name
        for folder in _folders(root or Path())
        for name in _names(folder)
        if name.endswith(TEXT_SUFFIXES) and not name.endswith(("metrics.jsonl", "samples.jsonl"))
    )
    return sorted(path for path in found if os.path.isfile(path))[:200]


def _of_run(run: Run) -> FoundModel | None:
    steps = run.checkpoint_steps()
    if not steps:
        return None
    best = run.pointer("best")
    detail = f"step {steps[-1]:,}" + (f", best at {best:,}" if best else "")
    return FoundModel(run.name, "run", detail, run.last_modified)


def _of_folder(folder: Path) -> FoundModel | None:
    base = _json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    adapter = folder / "adapter_model.safetensors"
    if isinstance(base, str) and os.path.isfile(adapter):
        detail = f"adapter of {Path(base).name}"
        return FoundModel(str(folder), "directory", detail, os.path.getmtime(adapter))
    config = _json(folder / "config.json")
    kind = config.get("model_type")
    weights = [folder / f"model.safetensors{end}" for end in ("", ".index.json")]
    found = [file for file in weights if os.path.isfile(file)]
    if not isinstance(kind, str) or not found:
        return None
    return FoundModel(str(folder), "directory", kind, os.path.getmtime(found[0]))


def _runs() -> list[Run]:
    try:
        return all_runs()
    except OSError:
        return []


def _folders(root: Path) -> Iterator[Path]:
    """Folders down to `DEPTH` below `root`, without hidden and `SKIPPED` ones, breadth first."""
    queue, visited = [(root, 0)], 0
    while queue and visited < FOLDERS:
        folder, depth = queue.pop(0)
        visited += 1
        yield folder
        if depth < DEPTH:
            names = [n for n in _names(folder) if not n.startswith(".") and n not in SKIPPED]
            queue += [(folder / n, depth + 1) for n in names if os.path.isdir(folder / n)]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
