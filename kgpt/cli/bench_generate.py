"""`kgpt bench generate`: generation throughput and latency."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.cli.options import CacheDtype, Dtype, MemoryFraction, StrictInt, parse_sizes
from kgpt.config import DtypeOption, InferenceDtype
from kgpt.errors import UsageError
from kgpt.runs import resolve_model

BATCH_SIZES = "1,2,4,8,16"
CONTEXTS = "64,128,256,512,1024"
GIBIBYTE = 1 << 30


def bench_generate(
    *,
    model: str,
    new_tokens: StrictInt = 64,
    prompt_tokens: StrictInt = 32,
    batch_sizes: str = BATCH_SIZES,
    contexts: str = CONTEXTS,
    dtype: Dtype = "auto",
    kv_cache_dtype: CacheDtype = "auto",
    memory_fraction: MemoryFraction = None,
    output: str | None = None,
    json_line: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Measure generation on random prompts, by batch size and by context length.

    Time to first token, time per output token, tokens per second, peak memory (the GPU's, or on a
    CPU the process's), and the shares of memory bandwidth and of the matmul peak that decoding
    reaches: of those measured on this machine and, for GPUs that kgpt has a datasheet of, of those
    stated there. A decode step reads every weight and the caches once.

    Parameters
    ----------
    model
        A model directory, a run, or the name of a preset (with random weights).
    new_tokens
        Tokens generated in each measurement.
    prompt_tokens
        Tokens of each prompt.
    batch_sizes
        Sequences decoded together, separated by commas.
    contexts
        Context lengths at which one sequence is decoded, separated by commas.
    output
        Save the results to this file: as a plot if its name ends in .svg, else as JSON.
    json_line
        Print one JSON object.
    """
    if new_tokens < 2 or prompt_tokens < 1:
        raise UsageError("--new-tokens must be at least 2, --prompt-tokens at least 1.")
    sizes = parse_sizes("--batch-sizes", batch_sizes)
    lengths = parse_sizes("--contexts", contexts)
    folder = _folder(model)
    prepare_process(memory_fraction)
    silence_native_code()
    from kgpt.generation.bench import measure

    with Console(stderr=True).status("measuring; compiling comes first"):
        loaded, resolved = _load(model, folder, dtype)
        loaded.kv_cache_dtype = kv_cache_dtype
        figures = measure(loaded, new_tokens, prompt_tokens, sizes, lengths)
    figures = {"model": model, "dtype": resolved, "kv_cache_dtype": kv_cache_dtype, **figures}
    if json_line:
        print(json.dumps(figures))
    else:
        _show(Console(), figures)
    if output:
        _save(Path(output), figures)


def _save(path: Path, figures: dict[str, Any]) -> None:
    if path.suffix == ".svg":
        recorder = Console(record=True, width=110, quiet=True)
        _show(recorder, figures)
        path.write_text(recorder.export_svg(title=f"kgpt bench generate {figures['model']}"))
    else:
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _folder(model: str) -> Path | None:
    """The model's directory; None for a preset."""
    from kgpt.config import presets

    return None if model in presets() and not Path(model).exists() else resolve_model(model)


def _load(model: str, folder: Path | None, dtype: DtypeOption) -> tuple[Any, InferenceDtype]:
    """The model, and its dtype where that is auto."""
    from kgpt.config import Config
    from kgpt.generation.loading import build_for_inference, inference_dtype, load_for_inference
    from kgpt.model.gpt import GPT

    if folder is not None:
        dtype = inference_dtype(folder, dtype)
        return load_for_inference(folder, dtype), dtype
    config = Config.load(model).model
    if config.vocab_size is None:
        config = config.model_copy(update={"vocab_size": 50257})
    dtype = "float32" if dtype == "auto" else dtype
    return build_for_inference(partial(GPT, config), dtype), dtype


def _show(console: Console, figures: dict[str, Any]) -> None:
    console.print(
        f"{figures['model']}: {figures['parameters'] / 1e6:.1f} M parameters, {figures['dtype']}, "
        f"{figures['backend']} on {figures['device']}\n"
        f"memory bandwidth {_peak(figures, 'bandwidth', 1e9, 'GB/s')}, which bounds one sequence "
        f"to {figures['bound_tokens_per_s']:,.0f} tokens/s",
        highlight=False,
    )
    if figures["matmul_peak"]:
        peak = _peak(figures, "matmul_peak", 1e12, "TFLOP/s")
        console.print(f"matmul peak {peak}", highlight=False)
    console.print(_batch_table(figures["batches"]))
    table = Table("context", "ms/token", "", title="Context length, one sequence")
    top = max((row["ms_per_token"] for row in figures["contexts"]), default=1.0)
    for row in figures["contexts"]:
        bar = "█" * round(30 * row["ms_per_token"] / top)
        table.add_row(str(row["context"]), f"{row['ms_per_token']:.2f}", bar)
    console.print(table)


def _peak(figures: dict[str, Any], name: str, unit: float, unit_name: str) -> str:
    """A measured peak and, where there is one, the datasheet's."""
    stated = figures[f"datasheet_{name.removeprefix('matmul_')}"]
    by_datasheet = f" ({stated / unit:,.0f} by its datasheet)" if stated else ""
    return f"{figures[name] / unit:,.2f} {unit_name}{by_datasheet}"


SHARES = {
    "of_bandwidth": "bandwidth",
    "of_datasheet_bandwidth": "datasheet's",
    "of_peak": "peak",
    "of_datasheet_peak": "datasheet's",
}


def _batch_table(batches: list[dict[str, Any]]) -> Table:
    shares = [name for name in SHARES if name in batches[0]]
    table = Table(
        "batch", "TTFT ms", "TPOT ms", "tokens/s", *(SHARES[name] for name in shares), "memory",
        title="Batch size: time to first token, time per output token, shares of the peaks",
    )  # fmt: skip
    for row in batches:
        table.add_row(
            str(row["batch"]), f"{row['first_token_ms']:.1f}", f"{row['ms_per_token']:.2f}",
            f"{row['tokens_per_s']:,.1f}", *(f"{row[name]:.1%}" for name in shares),
            f"{row['peak_memory'] / GIBIBYTE:.2f} GiB",
        )  # fmt: skip
    return table
