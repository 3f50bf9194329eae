"""`kgpt quantize`: store a model in int8 or int4, and measure the loss in perplexity."""

from __future__ import annotations

from pathlib import Path
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
    """Store a model in int8 or int4, and measure the loss in perplexity.

    This saves disk and download, not memory: loading dequantizes to float. For int8 in memory, run
    generate, chat and serve with --dtype int8, which works with any model directory.

    Parameters
    ----------
    model
        A model directory, a run (its best checkpoint), or run@step.
    out
        The folder to write, which must not exist or be empty.
    bits
        8: int8, per-channel scales. 4: int4, group-wise scales (group size 32), with embeddings
        and head in int8.
    data
        Measure perplexity before and after on this data set (its validation split) or text file.
    tokens
        Measure perplexity on at most so many tokens.
    quiet
        Print nothing.
    """
    if bits not in (8, 4):
        raise UsageError(f"--bits must be 8 or 4, not {bits}.")
    if tokens < 1:
        raise UsageError(f"--tokens must be at least 1, not {tokens}.")
    folder, target = resolve_model(model), new_target(out)
    prepare_process()
    from kgpt.checkpoints.convert import quantize_model
    from kgpt.checkpoints.pretrained import load_config
    from kgpt.export.perplexity import perplexity, validation_tokens

    console = Console(quiet=quiet)
    evaluation = validation_tokens(data, folder) if data else None
    with os_errors_as_kgpt(f"write {target}"), atomic_dir(target) as work:
        quantize_model(folder, work, bits)
    table = Table()
    for column in ("", "before", f"int{bits}", "change"):
        table.add_column(column, justify="left" if not column else "right")
    sizes = [weights_size(folder), weights_size(target)]
    table.add_row("weights on disk", *(f"{n / 1e6:,.2f} MB" for n in sizes), ratio(*sizes))
    memory = 4 * load_config(folder).num_parameters()
    table.add_row("weights in memory", *[f"{memory / 1e6:,.2f} MB"] * 2, "none")
    if evaluation is not None:
        silence_native_code()
        with console.status("measuring"):
            stream, loss_mask = evaluation
            before, after = (perplexity(f, stream, tokens, loss_mask) for f in (folder, target))
        row = f"{before:.4f}", f"{after:.4f}", f"{after / before - 1:+.2%}"
        table.add_row("perplexity", *row)
    console.print(table)
    console.print(
        Text(
            f"{target} saves disk and download; loading dequantizes to float32. For int8 "
            "in memory, run generate, chat and serve with --dtype int8."
        )
    )
    if evaluation is None:
        console.print(Text("Give --data to measure the loss in perplexity."))


def weights_size(folder: Path) -> int:
    """Bytes of a model directory's weights."""
    return sum(file.stat().st_size for file in folder.glob("model*.safetensors"))


def ratio(before: int, after: int) -> str:
    return f"{before / after:.1f}x smaller"
