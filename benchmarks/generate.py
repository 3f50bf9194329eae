"""Generation throughput of kgpt and other software: GPT-2 124M, the same random weights.

    python -m benchmarks.generate [--rounds 3] [--only "kgpt jax,llama.cpp"] [--markdown FILE]

A prompt of 32 tokens and 128 new ones, greedy, batch sizes 1 and 8. The systems of one precision
form a group: they start one after the other, load and compile, and are then measured in turns,
while the others are suspended. Only one group is alive at a time, since a process that is idle for
a minute loses memory to the system. A figure is the median of the rounds. A system that is not
installed or fails is named below the table. keras-hub comes with kgpt; the rest needs the `peers`
extra.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

BATCHES = (1, 8)
BACKENDS = ("jax", "tensorflow", "torch")
# Systems that are measured in turns. The last word is a precision, else it is float32.
GROUPS = (
    ("kgpt tensorflow", "kgpt jax", "kgpt torch", "llama.cpp", "ctranslate2"),
    ("keras-hub jax", "kgpt torch bf16", "transformers", "transformers bf16"),
    ("kgpt tensorflow int8", "kgpt jax int8", "kgpt torch int8", "llama.cpp q8_0",
     "ctranslate2 int8"),
    ("kgpt tensorflow int4", "kgpt jax int4", "kgpt torch int4", "llama.cpp q4_0"),
    ("keras-hub tensorflow", "keras-hub torch"),
)  # fmt: skip
SLOW = GROUPS[-1]  # measured only where --only names them
BASELINE = "transformers"
START_S, MEASURE_S = 300.0, 120.0  # limits of a start and of one measurement

Figures = dict[str, dict[int, list[float]]]


class Failed(Exception):
    """A system did not start, or did not answer in time; the message says how."""


class System:
    """One system in its own process, suspended except while it starts and is measured."""

    def __init__(self, name: str, folder: Path) -> None:
        self.log = folder / f"{name.replace(' ', '-')}.log"
        backend = next((word for word in name.split() if word in BACKENDS), "torch")
        environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.generate_systems", name, str(folder)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env=environment,
            )  # fmt: skip

    def start(self) -> None:
        """Wait until everything is compiled, and suspend it."""
        self._answer(START_S)
        self.process.send_signal(signal.SIGSTOP)

    def measure(self, batch: int) -> float:
        """Tokens per second of one generation. The other processes are suspended."""
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{batch}\n")
        self.process.stdin.flush()
        rate = self._answer(MEASURE_S)
        self.process.send_signal(signal.SIGSTOP)
        return rate

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _answer(self, limit: float) -> Any:
        if not select.select([self.process.stdout], [], [], limit)[0]:
            raise Failed(f"no answer in {limit:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            words = self.log.read_text(errors="replace").strip().splitlines()
            raise Failed(words[-1] if words else "it ended")
        return json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="systems: 'torch int8' has both words")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    groups, started = wanted(options.only), time.monotonic()
    names = [name for group in groups for name in group]
    figures: Figures = {name: {batch: [] for batch in BATCHES} for name in names}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, names)
        for group in groups:
            measure(group, options.rounds, folder, figures, failures)
            print(f"{time.monotonic() - started:.0f} s: {', '.join(group)}", flush=True)
    report(figures, failures, options.markdown)


def wanted(only: str) -> list[list[str]]:
    """The groups, with the systems that have all words of one of the entries of `only`."""
    if not only:
        return [list(group) for group in GROUPS if group is not SLOW]
    entries = [set(entry.split()) for entry in only.split(",")]
    groups = [
        [name for name in group if any(words <= set(name.split()) for words in entries)]
        for group in GROUPS
    ]
    return [group for group in groups if group]


def prepare(folder: Path, names: list[str]) -> None:
    """Write the model in the format of each system."""
    for kind in dict.fromkeys(name.split()[0] for name in names):
        subprocess.run(
            [sys.executable, "-m", "benchmarks.generate_systems", "prepare", str(folder), kind],
            env=os.environ | {"KERAS_BACKEND": "torch"}, check=False,
        )  # fmt: skip


def measure(
    group: list[str], rounds: int, folder: Path, figures: Figures, failures: dict[str, str]
) -> None:
    """Start the systems of a group one after the other, then measure them in turns."""
    with contextlib.ExitStack() as stack:
        systems: dict[str, System] = {}
        for name in group:
            with recorded(name, failures):
                systems[name] = System(name, folder)
                stack.callback(systems[name].close)
                systems[name].start()
        for _ in range(rounds):
            for name in [name for name in group if name not in failures]:
                with recorded(name, failures):
                    for batch in BATCHES:
                        figures[name][batch].append(systems[name].measure(batch))


@contextlib.contextmanager
def recorded(name: str, failures: dict[str, str]):
    """Keep why a system failed, and go on without it."""
    try:
        yield
    except (Failed, OSError) as error:
        failures[name] = str(error)


def report(figures: Figures, failures: dict[str, str], markdown: Path | None) -> None:
    medians = {
        name: {batch: statistics.median(rates) for batch, rates in by_batch.items()}
        for name, by_batch in figures.items()
        if all(by_batch.values())
    }
    base = medians.get(BASELINE)
    table = Table(
        "", *(f"tokens/s, batch {b}" for b in BATCHES), title="GPT-2 124M, 32 + 128 tokens"
    )
    lines = [
        "| | " + " | ".join(f"batch {b}" for b in BATCHES) + " |",
        "|---|" + "---:|" * len(BATCHES),
    ]
    for name, by_batch in medians.items():
        cells = [
            f"{rate:.1f}" + (f" ({rate / base[batch]:.2f}×)" if base else "")
            for batch, rate in by_batch.items()
        ]
        table.add_row(name, *cells)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    Console().print(table)
    for name, reason in failures.items():
        print(f"{name} failed: {reason}")
    if markdown:
        markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
