"""Run the parts of a plan, and write down what they report while they run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from benchmarks.gpu_run.plan import Part, Stages
from benchmarks.gpu_run.table import markdown

MARK = "RESULT "  # before the JSON object on a line that a part prints
GRACE_S = 5.0  # between SIGINT and SIGKILL
POLL_S = 0.05
LOG_TAIL = 6000  # bytes of a part's output that are kept


class Results:
    """Rows in results.jsonl as they come, and the table of all of them so far in gpu.md."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.rows = folder, list[dict[str, Any]]()
        self._lock = threading.Lock()
        for name in ("results.jsonl", "log.txt"):
            (folder / name).write_text("")

    def add(self, row: dict[str, Any]) -> None:
        with self._lock:
            self.rows.append(row)
            with (self.folder / "results.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            (self.folder / "gpu.md").write_text(markdown(self.rows), encoding="utf-8")

    def log(self, text: str) -> None:
        with self._lock, (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(text)


def run_stages(
    stages: Stages, results: Results, deadline: float, environment: dict[str, str], root: Path
) -> None:
    """All parts, until `deadline` on `time.monotonic`; those that are left then are skipped."""

    def run_chain(chain: list[Part]) -> None:
        for part in chain:
            row = run_part(part, results, deadline, environment, root)
            results.add(row)
            reason = f": {row['reason']}" if row["reason"] else ""
            print(f"{row['part']}: {row['status']} in {row['seconds']:.0f} s{reason}", flush=True)

    for stage in stages:
        threads = [threading.Thread(target=run_chain, args=(chain,)) for chain in stage]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def run_part(
    part: Part, results: Results, deadline: float, environment: dict[str, str], root: Path
) -> dict[str, Any]:
    """One part in its own process; returns how it ended: ok, failed, timed out or skipped."""
    started = time.monotonic()
    row = {"kind": "part", "part": part.name, "status": "skipped", "seconds": 0.0, "reason": ""}
    if reason := part.missing or _missing_package(part):
        return row | {"reason": reason}
    limit = min(started + part.limit_s, deadline - GRACE_S)
    if limit <= started:
        return row | {"reason": "no time was left"}
    log = results.folder / f".{part.name.replace(' ', '-')}.log"
    command = [sys.executable, "-m", "benchmarks.gpu_run.worker", json.dumps(part.job)]
    with log.open("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            command, cwd=root, env=environment | part.environment, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        finished = _follow(process, log, part.name, results, limit)
    text = log.read_text(encoding="utf-8", errors="replace")
    log.unlink()
    seconds = time.monotonic() - started
    results.log(f"===== {part.name}: {seconds:.0f} s\n{text[-LOG_TAIL:]}\n")
    row |= {"seconds": round(seconds, 1), "status": "ok"}
    if not finished:
        row |= {"status": "timed out", "reason": f"stopped after {seconds:.0f} s"}
    elif process.returncode:
        row |= {"status": "failed", "reason": _last_line(text)}
    return row


def _follow(
    process: subprocess.Popen[bytes], log: Path, name: str, results: Results, limit: float
) -> bool:
    """Record what a part reports until it ends; past `limit` stop it, and return False."""
    interrupted = 0.0
    with log.open(encoding="utf-8", errors="replace") as reader:
        while process.poll() is None:
            _read_rows(reader, name, results)
            now = time.monotonic()
            if not interrupted and now > limit:
                process.send_signal(signal.SIGINT)  # it may report what it has
                interrupted = now
            if interrupted and now > interrupted + GRACE_S:
                break
            time.sleep(POLL_S)
        _kill_group(process)
        _read_rows(reader, name, results)
    return not interrupted


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the part and what it has started, such as the workers of pytest."""
    with contextlib.suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read_rows(reader: IO[str], name: str, results: Results) -> None:
    """Record the whole lines that have been printed since the last time."""
    while True:
        position = reader.tell()
        line = reader.readline()
        if not line.endswith("\n"):
            reader.seek(position)
            return
        if line.startswith(MARK):
            results.add({"part": name, **json.loads(line[len(MARK) :])})


def _missing_package(part: Part) -> str | None:
    missing = [name for name in part.needs if importlib.util.find_spec(name) is None]
    return f"{', '.join(missing)} is not installed" if missing else None


def _last_line(text: str) -> str:
    """The error: the last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"
