"""One run directory, with its files."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout
from pydantic import BaseModel

from kgpt.config import read_yaml
from kgpt.errors import KgptError, RunError
from kgpt.files import write_json, write_text
from kgpt.runs.status import FINAL_STATES, RunStatus

Command = Literal["pause", "resume", "stop", "checkpoint", "sample"]
COMMANDS: tuple[Command, ...] = get_args(Command)
Rows = Literal["metrics", "samples", "completions", "environment"]  # files of rows
CHECKPOINT_NAME = re.compile(r"step-(\d{8,})")


class RunData(BaseModel):
    """The contents of `data.json`: which data set a run is trained on."""

    path: str  # absolute
    sha256: str  # of ids, loss masks and tokenizer
    tokenizer_sha256: str
    vocab_size: int
    train_tokens: int
    val_tokens: int


class Run:
    """One run directory: written by the trainer, read by everyone."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.log = path / "train.log"
        self._lock: FileLock | None = None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def exists(self) -> bool:
        return os.path.isfile(self.path / "run.yaml")  # False too where it may not be looked for

    @property
    def is_active(self) -> bool:
        """Whether a trainer is at work on it, or about to be."""
        status = self.status()
        return bool(status.pid) and status.state not in FINAL_STATES and not status.is_dead

    @property
    def is_taken(self) -> bool:
        """Whether no new run can have this name: a first step was made, or a trainer is at work."""
        has_begun = bool(self.checkpoint_steps()) or next(self._rows("metrics"), None) is not None
        return self.exists and (has_begun or self.is_active)

    @property
    def last_modified(self) -> float:
        latest = 0.0
        for name in ("status.json", "metrics.jsonl", "run.yaml"):
            with contextlib.suppress(OSError):
                latest = max(latest, (self.path / name).stat().st_mtime)
        return latest

    # -- written by the trainer ----------------------------------------------------------------

    @property
    def is_writer(self) -> bool:
        """Whether this process writes the run directory; of several that train it, one does."""
        return True

    def shared(self, make: Callable[[], Any]) -> Any:
        """What `make` returns: where several processes train the run, in the one that writes it."""
        return make()

    @contextlib.contextmanager
    def lost_process_as_kgpt(self, is_lost: Callable[[BaseException], bool]) -> Iterator[None]:
        """A block whose errors that `is_lost` knows say which of several processes is lost."""
        yield

    def claim(self, resume: bool) -> None:
        """`lock`; a `RunError` if a new run cannot have this name."""
        if self.is_taken and not resume:
            raise RunError(
                f"The run {self.name} exists already; resume it with --resume, "
                "or give another --run name."
            )
        self.lock()

    def lock(self) -> None:
        """Take the run's lock until `unlock` or exit; a `RunError` if it is taken.

        Commands left for an earlier process are dropped.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path / "lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            self._lock = None
            pid = self.status().pid
            raise RunError(
                f"The run {self.name} is already being trained by process {pid}; "
                f"stop it with `kgpt runs stop {self.name}`, or give another --run name."
            ) from None
        if self.status().pid != os.getpid():  # else they were sent since this process was started
            self.take_commands()

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def write_config(self, text: str) -> None:
        write_text(self.path / "run.yaml", text)

    def write_data(self, data: RunData) -> None:
        write_json(self.path / "data.json", data.model_dump())

    def write_status(self, status: RunStatus) -> None:
        write_json(self.path / "status.json", status.model_dump())

    def undo_starting(self) -> None:
        """Write the state from before this process was started to resume the run."""
        status = self._stored_status()
        if status.pid == os.getpid() and status.state_before_resume is not None:
            self.write_status(status.as_before_resume())

    def append(self, kind: Rows, row: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl or another file of rows, and flush it."""
        with (self.path / f"{kind}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def truncate_after(self, step: int) -> None:
        """Drop the rows after `step`, which a resumed run logs again."""
        for kind in get_args(Rows):
            file = self.path / f"{kind}.jsonl"
            if file.exists():
                kept = [row for row in read_rows(file) if row["step"] <= step]
                write_text(file, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept))

    def take_commands(self) -> list[tuple[Command, dict[str, Any]]]:
        """Remove and return the pending commands of control/, oldest first."""
        taken: list[tuple[Command, dict[str, Any]]] = []
        folder = self.path / "control"
        if not folder.is_dir():
            return []
        pending = [name for name in COMMANDS if (folder / name).exists()]
        for name in sorted(pending, key=lambda name: (folder / name).stat().st_mtime_ns):
            file = folder / name
            try:
                details = json.loads(file.read_text(encoding="utf-8") or "{}")
            except (OSError, ValueError):
                details = {}
            file.unlink(missing_ok=True)
            taken.append((name, details if isinstance(details, dict) else {}))
        return taken

    def poll(self, signal: str | None) -> tuple[list[tuple[Command, dict[str, Any]]], str | None]:
        """The pending commands, and the signal to stop for, here the one that is given.

        Where several processes train the run they all get the same.
        """
        return self.take_commands(), signal

    # -- used by everyone --------------------------------------------------------------------

    def send(self, command: Command, **details: Any) -> None:
        """Write a command for the trainer; a `RunError` if it is not running."""
        status = self.status()
        if status.state in FINAL_STATES or status.is_dead:
            state = "dead" if status.is_dead else status.state
            raise RunError(
                f"The run {self.name} is {state}; resume it with "
                f"`kgpt train --run {self.name} --resume`."
            )
        write_json(self.path / "control" / command, details)

    def config_text(self) -> str:
        return (self.path / "run.yaml").read_text(encoding="utf-8")

    def data(self) -> RunData | None:
        """The data set of the run; None if it was started by a version that did not note it."""
        try:
            return RunData.model_validate_json((self.path / "data.json").read_bytes())
        except (OSError, ValueError):
            return None

    def data_path(self) -> str | None:
        """The folder or address of its data set; None if no file of the run names one."""
        if recorded := self.data():
            return recorded.path
        with contextlib.suppress(OSError, KgptError):
            if folder := read_yaml(self.path / "run.yaml").get("data", {}).get("dir"):
                return str(folder)
        return None

    def status(self) -> RunStatus:
        status = self._stored_status()
        if status.state_before_resume is not None and status.is_dead:
            return status.as_before_resume()
        return status

    def _stored_status(self) -> RunStatus:
        try:
            return RunStatus.model_validate_json((self.path / "status.json").read_bytes())
        except (OSError, ValueError):
            return RunStatus()

    def metrics(self) -> list[dict[str, Any]]:
        return list(self._rows("metrics"))

    def samples(self) -> list[dict[str, Any]]:
        return list(self._rows("samples"))

    def completions(self) -> list[dict[str, Any]]:
        """Completions of the model in training with their rewards, where it learns by these."""
        return list(self._rows("completions"))

    def environments(self) -> list[dict[str, Any]]:
        """Where the run was trained: a row for each time it was started or resumed."""
        return list(self._rows("environment"))

    def _rows(self, kind: Rows) -> Iterator[dict[str, Any]]:
        return read_rows(self.path / f"{kind}.jsonl")

    def checkpoint_steps(self) -> list[int]:
        """Steps of the finished checkpoints, in order."""
        try:
            names = [CHECKPOINT_NAME.fullmatch(name) for name in os.listdir(self.checkpoints)]
        except OSError:
            return []
        return sorted(int(name[1]) for name in names if name)

    def checkpoint_path(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:08d}"

    def pointer(self, kind: Literal["latest", "best"]) -> int | None:
        """The step named by the pointer file `kind`; None without such a checkpoint."""
        try:
            step = int((self.checkpoints / kind).read_text())
        except (OSError, ValueError):
            return None
        return step if os.path.isdir(self.checkpoint_path(step)) else None

    def set_pointer(self, kind: Literal["latest", "best"], step: int) -> None:
        write_text(self.checkpoints / kind, f"{step}\n")


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON-lines file, without incomplete or malformed lines."""
    try:
        text = file.read_bytes()
    except OSError:
        return
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row
