"""`kgpt quantize`: store a model in int8 or int4, and measure the loss in perplexity."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.cli.export import new_target
from kgpt.cli.info import weights_size
from kgpt.cli.options import StrictInt
from kgpt.errors import UsageError
from kgpt.files import atomic_dir, os_errors_as_kgpt
from kgpt.formatting import size
from kgpt.runs import resolve_model


def quantize(
    *,
    model: str,
    out: str,
    bits: StrictInt = 8,
    data: str | None = None,
    tokens: StrictInt = 50_000,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Store a model in int8 or int4, and measure the loss in perplexity.

    generate, chat, serve and eval run such a model in its own format (--dtype auto) and read no
    floats; with --dtype float32 they dequantize it. --dtype int8 and int4 quantize any model as it
    is loaded.

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
        Maximum number of tokens to measure perplexity on.
    quiet
        Print nothing.
    """
    if bits not in (8, 4):
        raise UsageError(f"--bits must be 8 or 4, not {bits}.")
    if tokens < 1:
        raise UsageError(f"--tokens must be at least 1, not {tokens}.")
    folder, target = resolve_model(model), new_target(out)
    prepare_process()
    from kgpt.checkpoints.classifier_head import ClassifierHead
    from kgpt.checkpoints.convert import quantize_model
    from kgpt.checkpoints.model_info import weight_bytes
    from kgpt.checkpoints.pretrained import load_config
    from kgpt.evaluation.perplexity import perplexity, validation_tokens

    console = Console(quiet=quiet)
    evaluation = validation_tokens(data, folder) if data else None
    with os_errors_as_kgpt(f"write {target}"), atomic_dir(target) as work:
        quantize_model(folder, work, bits)
    table = Table()
    for column in ("", "before", f"int{bits}", "change"):
        table.add_column(column, justify="left" if not column else "right")
    before, after = weights_size(folder), weights_size(target)
    change = f"{before / after:.1f}x smaller"
    table.add_row("weights on disk", size(before), size(after), change)
    memory = weight_bytes(load_config(folder))
    floats, quantized = memory["float32"], memory[f"int{bits}"]
    change = f"{floats / quantized:.1f}x smaller"
    table.add_row("weights in memory", size(floats), size(quantized), change)
    if evaluation is not None:
        silence_native_code()
        with console.status("measuring"):
            stream, loss_mask = evaluation
            old, new = (perplexity(f, stream, tokens, loss_mask) for f in (folder, target))
        table.add_row("perplexity", f"{old:.4f}", f"{new:.4f}", f"{new / old - 1:+.2%}")
    console.print(table)
    console.print(Text(f"{target} runs in int{bits}; --dtype float32 dequantizes it."))
    if evaluation is None and ClassifierHead.load(folder) is None:
        console.print(Text("Give --data to measure the loss in perplexity."))
