"""What `kgpt plan` says of this machine beside what is measured on it.

    KERAS_BACKEND=jax python -m benchmarks.plan [--steps 10] [--rounds 3] [--markdown FILE]

For each preset: bytes of a step as planned and in the buffers that XLA assigned to the compiled
step (JAX only), the peak of the process as planned and measured, and the time of a step. Each is
measured in a process of its own, with the peaks of the machine, of several rounds the fastest; run
it with nothing else running.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PRESETS = {  # and the size of the vocabulary of their data
    "shakespeare-cpu": 65,
    "llama-tiny": 4096,
    "tinyworld": 1000,
}


def measure(preset: str, steps: int) -> dict[str, Any]:
    """Figures of one preset, in this process."""
    import keras

    from kgpt import backend
    from kgpt.config import Config
    from kgpt.lab.plan import make_plan
    from kgpt.lab.this_machine import this_machine
    from kgpt.training.bench import batch_figures

    config = Config.load(preset, {"model.vocab_size": PRESETS[preset]})
    machine = this_machine(config.train.precision)
    best = make_plan(config, machine).best
    (row,) = batch_figures(config, [config.train.batch_size], steps)
    buffers = xla_buffers(config) if keras.backend.backend() == "jax" else None
    return {
        "preset": preset,
        "backend": backend.name,
        "matmul_peak": machine.peak_flops,
        "bandwidth": machine.bandwidth,
        "planned_bytes": best.memory.peak,
        "xla_bytes": buffers,
        "planned_process": best.memory.peak + machine.runtime,
        "process_bytes": row["peak_memory"],
        "planned_ms": 1e3 * best.step_s,
        "measured_ms": row["ms_per_step"],
    }


def xla_buffers(config: Any) -> int:
    """Bytes of arguments and temporaries of the compiled training step."""
    import jax
    import numpy as np

    from kgpt.lab.memory_model import sequence_length
    from kgpt.training.pretraining import build_model

    model = build_model(config)
    shape = (config.train.batch_size, sequence_length(config))
    ids = np.zeros(shape, "int32")
    groups = (
        model.trainable_variables, model.non_trainable_variables,
        model.optimizer.variables, model.metrics_variables,
    )  # fmt: skip
    state = tuple([variable.value for variable in group] for group in groups)
    step = jax.jit(model.train_step, donate_argnums=0)
    memory = step.lower(state, (ids, ids)).compile().memory_analysis()
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes


def table(rows: list[dict[str, Any]]) -> str:
    """The figures as a Markdown table; of several rounds, the fastest step."""
    lines = [
        "| preset | backend | step, planned | XLA | process, planned | measured "
        "| ms, planned | measured |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        exact = f"{row['xla_bytes'] / 1e6:,.0f} MB" if row["xla_bytes"] else ""
        lines.append(
            f"| {row['preset']} | {row['backend']} | {row['planned_bytes'] / 1e6:,.0f} MB | "
            f"{exact} | {row['planned_process'] / 1e6:,.0f} MB | "
            f"{row['process_bytes'] / 1e6:,.0f} MB | {row['planned_ms']:,.1f} | "
            f"{row['measured_ms']:,.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="The plan beside measurements.")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.steps)))
        return
    rows = []
    for preset in PRESETS:
        command = [sys.executable, "-m", "benchmarks.plan", "--one", preset]
        found = []
        for _ in range(options.rounds):
            done = subprocess.run(
                [*command, "--steps", str(options.steps)], stdout=subprocess.PIPE, text=True,
                check=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
            )  # fmt: skip
            found.append(json.loads(done.stdout.splitlines()[-1]))
        rows.append(min(found, key=lambda row: row["measured_ms"]))
    print(table(rows))
    if options.markdown:
        options.markdown.write_text(table(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
