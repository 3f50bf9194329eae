"""`kgpt runs inspect`: the batch of a step, the loss of each token, gradients by layer."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.cli.options import StrictInt
from kgpt.errors import UsageError
from kgpt.formatting import NONE, number
from kgpt.runs import Run, find_run

if TYPE_CHECKING:
    from kgpt.lab.inspect import InspectedStep, TokenLoss
    from kgpt.text.tokenizer import Tokenizer

SHOWN_CHARACTERS = 60
CONTEXT_TOKENS = 12  # before a token


def inspect(
    run: str,
    *,
    step: StrictInt | None = None,
    tokens: StrictInt = 15,
    rows: StrictInt = 8,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """What a run learned from at a step: texts, the loss of each token, gradients by layer.

    The run is replayed to that step from the checkpoint before it. Without --step it lists the
    steps at which the loss or the norm of the gradient was far above those before.

    Parameters
    ----------
    run
        The name of the run.
    step
        The step, as in metrics.jsonl.
    tokens
        How many of the tokens with the highest loss to show.
    rows
        How many rows of the batch to show, those with the highest loss first.
    json_
        Print one JSON object, with every token.
    """
    found = find_run(run)
    if step is None:
        _show_spikes(found, json_)
        return
    for name, value in {"--tokens": tokens, "--rows": rows}.items():
        if value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}.")
    prepare_process()
    silence_native_code()
    from kgpt.data.shards import TokenDataset
    from kgpt.lab.inspect import inspect_step

    inspected = inspect_step(found, step)
    folder = found.data_path()
    assert folder is not None  # it was replayed
    tokenizer = TokenDataset(folder).tokenizer
    if json_:
        texts = [tokenizer.decode(row) for row in inspected.rows]
        values = asdict(inspected) | {"texts": texts, "is_exact": inspected.is_exact}
        print(json.dumps(values, ensure_ascii=False))
        return
    _show(inspected, tokenizer, tokens, rows)


def _show_spikes(run: Run, as_json: bool) -> None:
    from kgpt.lab.spikes import find_spikes

    spikes = find_spikes(run.metrics())
    if as_json:
        print(json.dumps({"spikes": [asdict(spike) for spike in spikes]}))
        return
    console = Console()
    if not spikes:
        console.print("no spike in metrics.jsonl; name a step with --step", highlight=False)
        return
    table = Table()
    for column in ("step", "metric", "value", "usual before"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for spike in spikes:
        table.add_row(
            f"{spike.step:,}", spike.metric, number(spike.value), number(spike.usual)
        )  # fmt: skip
    console.print(table)
    worst = max(spikes, key=lambda spike: spike.value / max(spike.usual, 1e-9))
    console.print(f"kgpt runs inspect {run.name} --step {worst.step}", markup=False)


def _show(inspected: InspectedStep, tokenizer: Tokenizer, tokens: int, rows: int) -> None:
    console = Console()
    start = (
        f"the checkpoint of step {inspected.checkpoint}" if inspected.checkpoint else "the start"
    )
    console.print(
        f"step {inspected.step}, replayed from {start}: loss {inspected.loss:.6f}, "
        f"gradient norm {number(inspected.grad_norm)}, learning rate {inspected.lr:g}",
        highlight=False,
    )
    console.print(_comparison(inspected), highlight=False)
    console.print(_layers(inspected), _tokens(inspected, tokenizer, tokens))
    console.print(_rows(inspected, tokenizer, rows))


def _comparison(inspected: InspectedStep) -> str:
    """How the replayed loss compares with the recorded one."""
    if inspected.recorded is None:
        return "the run logged no row of this step, so the loss cannot be compared"
    if inspected.is_exact:
        return "the loss is the recorded number"
    return (
        f"the loss recorded is {inspected.recorded['loss']:.6f}: options, versions or the backend "
        "have changed since"
    )


def _layers(inspected: InspectedStep) -> Table:
    table = Table(title="gradient")
    table.add_column("layer")
    table.add_column("norm", justify="right")
    for layer, norm in inspected.layers.items():
        table.add_row(layer, number(norm))
    return table


def _tokens(inspected: InspectedStep, tokenizer: Tokenizer, count: int) -> Table:
    """The tokens with the highest loss, with what stands before them."""
    table = Table(title="tokens with the highest loss")
    for column in ("row", "position", "loss", "text before", "token"):
        is_text = column in ("text before", "token")
        table.add_column(column, justify="left" if is_text else "right")
    for token in inspected.highest(count):
        before, itself = _before(inspected, token, tokenizer), tokenizer.decode([token.token_id])
        numbers = str(token.row), str(token.position), number(token.loss)
        table.add_row(*numbers, Text(before), Text(repr(itself)))
    return table


def _before(inspected: InspectedStep, token: TokenLoss, tokenizer: Tokenizer) -> str:
    first = max(0, token.position - CONTEXT_TOKENS)
    text = tokenizer.decode(inspected.rows[token.row][first : token.position])
    return repr(text[-SHOWN_CHARACTERS:])


def _rows(inspected: InspectedStep, tokenizer: Tokenizer, count: int) -> Table:
    """The rows of the batch, those with the highest loss first."""
    table = Table(title=f"{len(inspected.rows)} rows")
    table.add_column("row", justify="right")
    table.add_column("loss", justify="right")
    table.add_column("text")
    losses = {row: inspected.row_loss(row) for row in range(len(inspected.rows))}
    for row in sorted(losses, key=lambda row: -(losses[row] or 0.0))[:count]:
        text = repr(tokenizer.decode(inspected.rows[row])[:SHOWN_CHARACTERS])
        loss = losses[row]
        table.add_row(str(row), NONE if loss is None else number(loss), Text(text))
    return table
