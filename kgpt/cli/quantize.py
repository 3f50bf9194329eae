"""`kgpt quantize`: a model stored in 8 or 4 bits, and what that costs."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.cli.export import new_target
from kgpt.cli.options import Whole
from kgpt.errors import UsageError
from kgpt.files import atomic_dir, os_errors_as_kgpt
from kgpt.runs import resolve_model


def quantize(
    *,
    model: str,
    out: str,
    bits: Whole = 8,
    data: str | None = None,
    tokens: Whole = 50_000,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Store a model in 8 or 4 bits a weight, and measure what that costs.

    The directory is smaller on disk and over the network. Loaded, its weights are floats again,
    unless generate, chat and serve are told to hold them as they are, by --dtype int8.

    Parameters
    ----------
    model
        A model directory, a run (its best checkpoint), or run@step.
    out
        The folder to write, which must not exist or be empty.
    bits
        8: a scale for each output of a matrix. 4: a scale for each 32 inputs of an output; the
        embeddings and the head stay at 8.
    data
        What perplexity is measured on, before and after: a data set (its validation part) or a
        text file.
    tokens
        Measure on so many tokens at most.
    quiet
        Print nothing.
    """
    if bits not in (8, 4):
        raise UsageError(f"--bits must be 8 or 4, not {bits}.")
    if tokens < 1:
        raise UsageError(f"--tokens must be at least 1, not {tokens}.")
    folder, target = resolve_model(model), new_target(out)
    prepare_process()
    from kgpt.checkpoints.pretrained import load_config
    from kgpt.export.quantize import perplexity, validation_tokens, write_quantized

    console = Console(quiet=quiet)
    measured = validation_tokens(data, folder) if data else None
    with os_errors_as_kgpt(f"write {target}"), atomic_dir(target) as work:
        write_quantized(folder, work, bits)
    table = Table()
    for column in ("", "before", f"int{bits}", "change"):
        table.add_column(column, justify="left" if not column else "right")
    sizes = [weights_size(folder), weights_size(target)]
    table.add_row("weights on disk", *(f"{n / 1e6:,.2f} MB" for n in sizes), ratio(*sizes))
    memory = 4 * load_config(folder).num_parameters()
    table.add_row("weights in memory", *[f"{memory / 1e6:,.2f} MB"] * 2, "none")
    if measured is not None:
        silence_native_code()
        with console.status("measuring"):
            stream, loss_mask = measured
            before, after = (
                perplexity(place, stream, tokens, loss_mask) for place in (folder, target)
            )
        row = f"{before:.4f}", f"{after:.4f}", f"{after / before - 1:+.2%}"
        table.add_row("perplexity", *row)
    console.print(table)
    console.print(
        Text(
            f"{target} saves disk and download. Loaded, the weights are float32 again; with "
            "--dtype int8, generate, chat and serve hold those of any model in 8 bits."
        )
    )
    if measured is None:
        console.print(Text("Give --data to measure what it costs in perplexity."))


def weights_size(folder) -> int:
    """Bytes of a model directory's weights."""
    return sum(file.stat().st_size for file in folder.glob("model*.safetensors"))


def ratio(before: int, after: int) -> str:
    return f"{before / after:.1f}x smaller"
