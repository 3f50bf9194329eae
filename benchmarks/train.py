"""Training throughput of kgpt and nanoGPT, alternating in one run.

    python -m benchmarks.train --nanogpt PATH [--markdown FILE] [--json FILE]

PATH is a checkout of nanoGPT, whose `model.py` is imported. Each system runs in its own process
and is compiled before anything is measured; then each makes a few steps in turn, for several
rounds. Reported is the median over rounds of the median step of a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kgpt.config import ModelConfig

SHAPES = {  # layers, heads, width, context, batch
    "small": (4, 4, 128, 64, 12),
    "large": (6, 6, 384, 256, 16),
}
STEPS = {"small": 20, "large": 3}  # in a round
PRECISIONS = {"small": ("float32",), "large": ("float32", "bfloat16")}
BASELINE = "nanoGPT compiled"
BACKENDS = ("tensorflow", "jax", "torch")


@dataclass
class System:
    """One system under test: its label, the job of its process, and what was measured."""

    shape: str
    label: str
    precision: str
    job: dict
    process: subprocess.Popen | None = None
    peak: float = 0.0
    rounds: list[float] = field(default_factory=list)
    failure: str | None = None

    @property
    def ms(self) -> float:
        return statistics.median(self.rounds)

    def start(self) -> None:
        command = [sys.executable, "-m", "benchmarks.train_worker", json.dumps(self.job)]
        environment = {k: v for k, v in os.environ.items() if k != "KGPT_RESTARTED"}
        self.process = subprocess.Popen(
            command, env=environment, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.peak = self._answer().get("peak") or 0.0

    def measure(self) -> None:
        if self.failure is None:
            self.process.stdin.write(f"{STEPS[self.shape]}\n")
            answer = self._answer()
            if "ms" in answer:
                self.rounds.append(answer["ms"])

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.failure = (self.process.stderr.read().strip().splitlines() or ["it ended"])[-1]
        return {}


def systems(shape: str, nanogpt: str) -> list[System]:
    """Every system that is measured at a shape."""
    found = []
    for precision in PRECISIONS[shape]:
        common = {"shape": SHAPES[shape], "precision": precision}
        for compiled in (False, True):
            label = "nanoGPT compiled" if compiled else "nanoGPT eager"
            job = {**common, "name": "nanogpt", "compiled": compiled, "path": nanogpt}
            found.append(System(shape, label, precision, job))
        for name in BACKENDS:
            found.append(System(shape, f"kgpt {name}", precision, {**common, "name": name}))
    return found


def measure(shape: str, nanogpt: str, rounds: int, console: Console) -> list[dict]:
    """Rows for one shape."""
    running = systems(shape, nanogpt)
    for system in running:
        console.print(f"{shape}: {system.label} {system.precision} warms up", style="dim")
        system.start()
    for number in range(rounds):
        console.print(f"{shape}: round {number + 1} of {rounds}", style="dim")
        for system in running:
            system.measure()
    for system in running:
        system.stop()
        if system.failure:
            console.print(f"{system.label} {system.precision}: {system.failure}")
    return rows([system for system in running if system.rounds])


def rows(measured: list[System]) -> list[dict]:
    """The figures; the peak is the best any backend measured in that precision."""
    layers, heads, width, length, batch = SHAPES[measured[0].shape]
    config = ModelConfig(
        vocab_size=65, num_layers=layers, num_heads=heads, hidden_dim=width, max_length=length,
        bias=False,
    )  # fmt: skip
    flops = config.flops_per_token(length) * batch * length
    known = {(c.label, c.precision): c.ms for c in measured}
    baseline = known.get((BASELINE, "float32"))
    peaks = {p: max(c.peak for c in measured if c.precision == p) for _, p in known}
    found = []
    for system in measured:
        peak = peaks[system.precision]
        found.append(
            {
                "shape": f"{layers} x {width} x {length}, batch {batch}",
                "system": system.label,
                "precision": system.precision,
                "ms_per_step": round(system.ms, 2),
                "tokens_per_s": round(batch * length / system.ms * 1000),
                "peak_share": round(flops / (system.ms / 1000) / peak, 3) if peak else None,
                "ratio": round(baseline / system.ms, 2) if baseline else None,
                "rounds_ms": [round(ms, 2) for ms in system.rounds],
            }
        )
    return found


HEADINGS = ("shape", "system", "precision", "ms/step", "tokens/s", "of peak", "speed")


def cells(row: dict) -> tuple[str, ...]:
    share, ratio = row["peak_share"], row["ratio"]
    return (
        row["shape"],
        row["system"],
        row["precision"],
        f"{row['ms_per_step']:,.1f}",
        f"{row['tokens_per_s']:,}",
        "-" if share is None else f"{share:.0%}",
        "-" if ratio is None else f"{ratio:.2f}x",
    )


def markdown(measured: list[dict]) -> str:
    lines = [f"| {' | '.join(HEADINGS)} |", "|---|---|---|---:|---:|---:|---:|"]
    lines += [f"| {' | '.join(cells(row))} |" for row in measured]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", required=True, help="a checkout of nanoGPT")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("benchmark-train.json"))
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    if not (Path(options.nanogpt) / "model.py").is_file():
        parser.error(f"{options.nanogpt} holds no model.py, so it is no checkout of nanoGPT.")
    console = Console()
    measured = []
    for shape in options.shapes:
        measured += measure(shape, options.nanogpt, options.rounds, console)
    table = Table(*HEADINGS, title="Training, beside nanoGPT compiled at float32")
    for row in measured:
        table.add_row(*cells(row))
    console.print(table)
    options.json.write_text(json.dumps(measured, indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(markdown(measured))


if __name__ == "__main__":
    main()
