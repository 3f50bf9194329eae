"""`kgpt bench train`: training throughput of a configuration."""

from __future__ import annotations

import json
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from kgpt.cli.environment import prepare_process
from kgpt.cli.options import MemoryFraction, StrictInt, parse_sizes
from kgpt.cli.train import FLAGS
from kgpt.config import Config, parse_overrides
from kgpt.errors import UsageError

GIBIBYTE = 1 << 30


def bench_train(
    config: str,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    steps: StrictInt = 20,
    batch_sizes: str | None = None,
    memory_fraction: MemoryFraction = None,
    json_line: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Measure training steps on random tokens; nothing is saved.

    Shares are of the matmul peak measured on this machine and, for GPUs that kgpt has a datasheet
    of, of the peak stated there. FLOPs are counted as by nanoGPT (PaLM, Appendix B). Peak memory is
    the GPU's, or on a CPU the process's.

    Parameters
    ----------
    config
        A preset or a YAML file; any key can be set, as with `kgpt train`.
    steps
        Forward and backward passes measured, after three for compilation.
    batch_sizes
        Measure each of these batch sizes, separated by commas, in place of train.batch_size.
    json_line
        Print one JSON object.
    """
    if steps < 1:
        raise UsageError("--steps must be at least 1.")
    flags = [*FLAGS, "--steps", "--batch-sizes", "--json"]
    resolved = Config.load(config, parse_overrides(overrides, flags))
    sizes = parse_sizes("--batch-sizes", batch_sizes) if batch_sizes else None
    prepare_process(memory_fraction)
    from kgpt.training.bench import measure_training

    with Console(stderr=True).status("measuring; compiling comes first"):
        figures = measure_training(resolved, sizes or [resolved.train.batch_size], steps)
    figures = {"config": config, **figures}
    if json_line:
        print(json.dumps(figures))
    else:
        _show(Console(), figures)


def _shown_rate(flops: float) -> str:
    """FLOP/s as text: a CPU's in GFLOP/s."""
    return f"{flops / 1e9:,.0f} GFLOP/s" if flops < 1e12 else f"{flops / 1e12:,.2f} TFLOP/s"


def _show(console: Console, figures: dict[str, Any]) -> None:
    peak, datasheet_peak = figures["matmul_peak"], figures["datasheet_peak"]
    stated = f", {datasheet_peak / 1e12:,.0f} by its datasheet" if datasheet_peak else ""
    console.print(
        f"{figures['config']}: {figures['parameters'] / 1e6:.2f} M parameters, "
        f"{figures['precision']}, {figures['backend']} on "
        f"{figures['processor'] or figures['device']}\n"
        f"matmul peak {_shown_rate(peak)} measured{stated}",
        highlight=False,
    )
    headings = ["batch", "ms/step", "tokens/s", "of peak"]
    headings += ["of datasheet"] if datasheet_peak else []
    table = Table(*headings, "peak memory", "compiled in")
    for row in figures["batches"]:
        cells = [
            str(row["batch"]), f"{row['ms_per_step']:.1f}", f"{row['tokens_per_s']:,.0f}",
            f"{row['mfu']:.1%}",
        ]  # fmt: skip
        cells += [f"{row['datasheet_mfu']:.1%}"] if datasheet_peak else []
        memory = f"{row['peak_memory'] / GIBIBYTE:.1f} GiB"
        table.add_row(*cells, memory, f"{row['compile_s']:.1f} s")
    console.print(table)
