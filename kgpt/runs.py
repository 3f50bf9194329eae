"""The run directory: the files through which a trainer and its watchers communicate.

run.yaml       the resolved configuration: enough to start the same run again
status.json    replaced atomically: state, step, heartbeat, error, ...
metrics.jsonl  one row per logged step, appended; the last line may be incomplete
samples.jsonl  text generated during training
train.log      the trainer's output
control/       one file per command: pause, resume, stop, checkpoint, sample
checkpoints/   step-00000500/ ..., and the pointer files `latest` and `best`
lock           held by the trainer; a second one is refused

Imports no Keras.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout
from pydantic import BaseModel

from kgpt.errors import RunError, UsageError
from kgpt.files import write_json, write_text

State = Literal[
    "starting", "compiling", "training", "paused", "validating", "sampling", "saving",
    "finished", "stopped", "failed",
]  # fmt: skip
FINAL_STATES = ("finished", "stopped", "failed")
Command = Literal["pause", "resume", "stop", "checkpoint", "sample"]
COMMANDS: tuple[Command, ...] = get_args(Command)
HEARTBEAT_INTERVAL_S = 2.0  # between two writes of status.json
HEARTBEAT_TIMEOUT_S = 20.0  # a run on another host without a newer heartbeat counts as dead
MAX_NAME_BYTES = 200  # of a run: file systems allow 255
CHECKPOINT_NAME = re.compile(r"step-(\d{8,})")


class RunStatus(BaseModel):
    """The contents of `status.json`: state and progress of a run.

    `state_before_resume` is set from when an ended run is resumed until it trains: a resume that
    fails before leaves the run in that state.
    """

    state: State = "starting"
    state_before_resume: State | None = None
    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    tokens_seen: int = 0
    eta_s: float | None = None
    heartbeat: float = 0.0
    pid: int = 0
    host: str = ""
    backend: str = ""
    device: str = ""
    error: str | None = None

    @property
    def is_dead(self) -> bool:
        """True if the state is not final but the process is gone."""
        if self.state in FINAL_STATES:
            return False
        if self.host == socket.gethostname():
            return not _process_exists(self.pid)
        return time.time() - self.heartbeat > HEARTBEAT_TIMEOUT_S

    def before_resume(self) -> dict[str, Any]:
        """The fields with which the status of a resumed run begins."""
        state = self.state if self.state in FINAL_STATES else self.state_before_resume
        kept = self.model_dump(include={"step", "total_steps", "epoch", "tokens_seen"})
        return kept | {"state_before_resume": state}


def runs_folder() -> Path:
    """The directory of all runs: `KGPT_RUNS`, or ./runs."""
    return Path(os.environ.get("KGPT_RUNS", "runs"))


def all_runs(folder: Path | None = None) -> list[Run]:
    """Every run in `folder`, the most recently modified first."""
    folder = folder or runs_folder()
    found = [Run(path.parent) for path in folder.glob("*/run.yaml")]
    return sorted(found, key=lambda run: run.last_modified, reverse=True)


def find_run(name: str) -> Run:
    """The existing run called `name`, or in the directory `name`; a `RunError` if there is none."""
    for path in (Path(name), runs_folder() / name):
        if Run(path).exists:
            return Run(path)
    known = ", ".join(run.name for run in all_runs()) or "none yet"
    raise RunError(
        f"There is no run {name[:80]!r} in {runs_folder()}; the runs there are: {known}."
    )


def new_run(name: str) -> Run:
    """The run called `name`, whose directory need not exist."""
    if not name or name != Path(name).name or name.startswith("."):
        raise UsageError(f"{name!r} cannot name a run; use letters, digits, '-', '_' and '.'.")
    if len(os.fsencode(name)) > MAX_NAME_BYTES:
        raise UsageError(f"A run's name has at most {MAX_NAME_BYTES} bytes; shorten it.")
    return Run(runs_folder() / name)


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
    def last_modified(self) -> float:
        latest = 0.0
        for name in ("status.json", "metrics.jsonl", "run.yaml"):
            with contextlib.suppress(OSError):
                latest = max(latest, (self.path / name).stat().st_mtime)
        return latest

    # -- written by the trainer ----------------------------------------------------------------

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

    def write_status(self, status: RunStatus) -> None:
        write_json(self.path / "status.json", status.model_dump())

    def append(self, kind: Literal["metrics", "samples"], row: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl or samples.jsonl and flush it."""
        with (self.path / f"{kind}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def truncate_after(self, step: int) -> None:
        """Drop metrics and samples after `step`, which a resumed run logs again."""
        for kind in ("metrics", "samples"):
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

    # -- used by everyone --------------------------------------------------------------------

    def send(self, command: Command, **details: Any) -> None:
        """Write a command for the trainer; a `RunError` if it is not running."""
        status = self.status()
        if status.state in FINAL_STATES or status.is_dead:
            state = "dead" if status.is_dead else status.state
            raise RunError(
                f"The run {self.name} is {state}; resume it with "
                f"`kgpt train {self.path / 'run.yaml'} --run {self.name} --resume`."
            )
        write_json(self.path / "control" / command, details)

    def config_text(self) -> str:
        return (self.path / "run.yaml").read_text(encoding="utf-8")

    def status(self) -> RunStatus:
        try:
            status = RunStatus.model_validate_json((self.path / "status.json").read_bytes())
        except (OSError, ValueError):
            return RunStatus()
        if status.state_before_resume is not None and status.is_dead:
            status.state, status.state_before_resume = status.state_before_resume, None
        return status

    def metrics(self) -> list[dict[str, Any]]:
        return list(read_rows(self.path / "metrics.jsonl"))

    def samples(self) -> list[dict[str, Any]]:
        return list(read_rows(self.path / "samples.jsonl"))

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


def resolve_model(source: str) -> Path:
    """The model directory for a directory, a run name (best checkpoint) or `run@step`."""
    if os.path.isfile(os.path.join(source, "config.json")):
        return Path(source)
    name, _, step = source.partition("@")
    if not Run(Path(name)).exists and os.path.isdir(name) and not step:
        raise UsageError(f"{source} holds no config.json, so it is not a model directory.")
    run = find_run(name)
    steps = run.checkpoint_steps()
    if step:
        if not step.isdigit() or int(step) not in steps:
            known = ", ".join(map(str, steps)) or "none"
            raise RunError(f"The run {name} has no checkpoint {step}; it has: {known}.")
        return run.checkpoint_path(int(step))
    chosen = run.pointer("best") or run.pointer("latest") or (steps[-1] if steps else None)
    if chosen is None:
        raise RunError(f"The run {name} has no checkpoint yet; wait for one, or train longer.")
    return run.checkpoint_path(chosen)


def _process_exists(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
