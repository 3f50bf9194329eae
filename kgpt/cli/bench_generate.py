"""`kgpt bench generate`: generation throughput and latency."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.cli.options import Dtype, StrictInt
from kgpt.config import InferenceDtype
from kgpt.errors import UsageError
from kgpt.runs import resolve_model

BATCHES = (1, 2, 4, 8, 16)
CONTEXTS = (64, 128, 256, 512, 1024)


def bench_generate(
    *,
    model: str,
    new_tokens: StrictInt = 64,
    prompt_tokens: StrictInt = 32,
    dtype: Dtype = "float32",
    output: str | None = None,
) -> None:
    """Measure time to first token, time per token over context lengths, tokens per second over
    batch sizes, and the fraction of the bound set by memory bandwidth.

    Parameters
    ----------
    model
        A model directory, a run, or the name of a preset (with random weights).
    new_tokens
        Tokens generated in each measurement.
    prompt_tokens
        Tokens of each prompt.
    output
        Save the results to this file: as a plot if its name ends in .svg, else as JSON.
    """
    if new_tokens < 2 or prompt_tokens < 1:
        raise UsageError("--new-tokens must be at least 2, --prompt-tokens at least 1.")
    folder = _folder(model)
    prepare_process()
    silence_native_code()
    from kgpt.generation.bench import measure

    console = Console()
    with console.status("measuring; compiling comes first"):
        figures = measure(_load(model, folder, dtype), new_tokens, prompt_tokens, BATCHES, CONTEXTS)
    figures = {"model": model, "dtype": dtype, **figures}
    recorder = Console(record=True, width=100, quiet=True) if output else None
    for target in filter(None, (console, recorder)):
        _show(target, figures)
    if output and recorder is not None:
        path = Path(output)
        if path.suffix == ".svg":
            path.write_text(recorder.export_svg(title=f"kgpt bench generate {model}"))
        else:
            path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _folder(model: str) -> Path | None:
    """The model's directory; None for a preset."""
    from kgpt.config import presets

    return None if model in presets() and not Path(model).exists() else resolve_model(model)


def _load(model: str, folder: Path | None, dtype: InferenceDtype) -> Any:
    from kgpt.config import Config
    from kgpt.generation.loading import build_for_inference, load_for_inference
    from kgpt.model.gpt import GPT

    if folder is not None:
        return load_for_inference(folder, dtype)
    config = Config.load(model).model
    if config.vocab_size is None:
        config = config.model_copy(update={"vocab_size": 50257})
    return build_for_inference(partial(GPT, config), dtype)


def _show(console: Console, figures: dict[str, Any]) -> None:
    console.print(
        f"{figures['model']}: {figures['parameters'] / 1e6:.1f} M parameters, {figures['dtype']}, "
        f"{figures['backend']} on {figures['device']}",
        highlight=False,
    )
    console.print(
        f"time to first token {figures['first_token_ms']:.1f} ms "
        f"({figures['prompt_tokens']} prompt tokens); memory bandwidth "
        f"{figures['bandwidth'] / 1e9:.1f} GB/s, which bounds one sequence to "
        f"{figures['bound_tokens_per_s']:.0f} tokens/s",
        highlight=False,
    )
    table = Table("batch", "tokens/s", "ms/token", "of the bound", "", title="Batch size")
    top = max(row["tokens_per_s"] for row in figures["batches"])
    for row in figures["batches"]:
        table.add_row(
            str(row["batch"]), f"{row['tokens_per_s']:.1f}", f"{row['ms_per_step']:.2f}",
            f"{row['of_bound']:.0%}", "█" * round(30 * row["tokens_per_s"] / top),
        )  # fmt: skip
    console.print(table)
    table = Table("context", "ms/token", "", title="Context length, one sequence")
    top = max((row["ms_per_token"] for row in figures["contexts"]), default=1.0)
    for row in figures["contexts"]:
        bar = "█" * round(30 * row["ms_per_token"] / top)
        table.add_row(str(row["context"]), f"{row['ms_per_token']:.2f}", bar)
    console.print(table)
