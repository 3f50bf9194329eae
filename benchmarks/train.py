"""Training throughput of kgpt and nanoGPT, alternating in one run.

    python -m benchmarks.train --nanogpt PATH [--markdown FILE] [--json FILE]

PATH is a checkout of nanoGPT, whose `model.py` is imported. In each of several rounds every system
takes its turn in a process of its own, which compiles, warms up, makes a few measured steps and
ends: memory that waits idle is reclaimed by the system, and the next steps are slower. Reported is
the median over rounds of the median step of a round.
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
from kgpt.processor import processor_with_features

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
    peak: float = 0.0
    rounds: list[float] = field(default_factory=list)
    failure: str | None = None

    @property
    def ms(self) -> float:
        return statistics.median(self.rounds)

    def measure(self) -> None:
        """Add the milliseconds per step of a new process, or note why it failed."""
        command = [sys.executable, "-m", "benchmarks.train_worker", json.dumps(self.job)]
        environment = {k: v for k, v in os.environ.items() if k != "KGPT_RESTARTED"}
        ended = subprocess.run(command, env=environment, text=True, capture_output=True)
        if ended.returncode:
            self.failure = (ended.stderr.strip().splitlines() or ["it ended"])[-1]
            return
        answer = json.loads(ended.stdout)
        self.peak = max(self.peak, answer["peak"] or 0.0)
        self.rounds.append(answer["ms"])


def systems(shape: str, nanogpt: str) -> list[System]:
    """Every system that is measured at a shape."""
    found = []
    for precision in PRECISIONS[shape]:
        common = {"shape": SHAPES[shape], "precision": precision, "steps": STEPS[shape]}
        for compiled in (False, True):
            label = "nanoGPT compiled" if compiled else "nanoGPT eager"
            job = {**common, "name": "nanogpt", "compiled": compiled, "path": nanogpt}
            found.append(System(shape, label, precision, job))
        for name in BACKENDS:
            found.append(System(shape, f"kgpt {name}", precision, {**common, "name": name}))
    return found


def measure(shape: str, nanogpt: str, rounds: int, console: Console) -> list[dict]:
    """Rows for one shape."""
    found = systems(shape, nanogpt)
    for number in range(rounds):
        for system in found:
            if system.failure is None:
                console.print(
                    f"{shape}, round {number + 1} of {rounds}: {system.label} {system.precision}",
                    style="dim",
                )
                system.measure()
    for system in found:
        if system.failure:
            console.print(f"{system.label} {system.precision}: {system.failure}")
    return rows([system for system in found if system.rounds])


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
                "peak_gflops": round(peak / 1e9),
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


def markdown(measured: list[dict], cpu: str) -> str:
    lines = [f"On {cpu}.\n", f"| {' | '.join(HEADINGS)} |", "|---|---|---|---:|---:|---:|---:|"]
    lines += [f"| {' | '.join(cells(row))} |" for row in measured]
    return "\n".join(lines) + "\n"


def cpu_of(measured: list[dict]) -> str:
    """The CPU, with the peak FLOP/s that matrix products reached on it."""
    peaks = {row["precision"]: row["peak_gflops"] for row in measured}
    shown = [f"{peak:,} GFLOP/s in {precision}" for precision, peak in peaks.items()]
    return f"{processor_with_features()} ({', '.join(shown)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", required=True, help="a checkout of nanoGPT")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("benchmark-train.json"))
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    if not (Path(options.nanogpt) / "model.py").is_file():
        parser.error(f"{options.nanogpt} holds no model.py, so it is no checkout of nanoGPT.")
    console = Console()
    measured = []
    for shape in options.shapes:
        measured += measure(shape, options.nanogpt, options.rounds, console)
    cpu = cpu_of(measured)
    table = Table(*HEADINGS, title=f"Training, beside nanoGPT compiled at float32, on {cpu}")
    for row in measured:
        table.add_row(*cells(row))
    console.print(table)
    options.json.write_text(json.dumps(measured, indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(markdown(measured, cpu))


if __name__ == "__main__":
    main()
