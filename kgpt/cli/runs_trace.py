"""`kgpt runs trace`: when was this learned, and what is copied."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.cli.options import StrictInt
from kgpt.errors import UsageError
from kgpt.formatting import NONE, number
from kgpt.runs import find_run

if TYPE_CHECKING:
    from kgpt.lab.trace import CheckpointLoss, Copied, Occurrence, Piece, Trace, Tracer

SHOWN_STEPS = 6
SHOWN_CHARACTERS = 40
BAR_CHARACTERS = 40


def trace(
    run: str,
    *,
    text: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    generated: str | None = None,
    min_tokens: StrictInt = 16,
    limit: StrictInt = 10,
    loss: bool = True,
    data: str | None = None,
    index: str | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Where a text is in the training data of a run, and at which steps it is seen.

    The first call sorts the data set, into 4 bytes a token beside it; later ones only look up.

    Parameters
    ----------
    run
        The name of the run.
    text
        The text to look for.
    generated
        A file with a generated text, or with the rows of kgpt generate: how much of each text
        is copied.
    min_tokens
        The shortest span, in tokens, that counts as copied.
    limit
        How many occurrences of each split to give.
    loss
        Also compute the loss of the text at each checkpoint.
    data
        The data set of the run, if it has been moved.
    index
        The folder of the sorted data set; suffix_array in that of the data set if not given.
    json_
        Print one JSON object.
    """
    found = find_run(run)
    if text is None and generated is None:
        raise UsageError(
            "Give a text to look for with --text, or a generated one with --generated."
        )
    for name, value in {"--limit": limit, "--min-tokens": min_tokens}.items():
        if value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}.")
    texts = _generated_texts(Path(generated)) if generated is not None else []
    with_loss = loss and text is not None and bool(found.checkpoint_steps())
    if with_loss:
        prepare_process()
        silence_native_code()
    from kgpt.lab.trace import Tracer, checkpoint_losses

    with _progress() as advance:
        tracer = Tracer(found, _path(data), _path(index), advance)
    traced = tracer.trace(text, limit) if text is not None else None
    copied = [tracer.copied(one, min_tokens) for one in texts]
    losses = []
    if with_loss and text is not None:
        losses = checkpoint_losses(found, tracer.tokenizer.encode(text))
    if json_:
        print(json.dumps(_as_json(tracer, traced, copied, losses), ensure_ascii=False))
    else:
        _print(tracer, traced, copied, losses)


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def _generated_texts(file: Path) -> list[str]:
    """The texts of a file: those of its rows, if these are JSON objects with a text, or one."""
    try:
        content = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"{file} is no text file that can be read.") from None
    try:
        return [json.loads(line)["text"] for line in content.splitlines() if line.strip()]
    except (ValueError, KeyError, TypeError):
        return [content]


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """On standard error, how many tokens have been sorted."""
    console = Console(stderr=True)
    with console.status("Opening the data set") as status:
        yield lambda tokens: status.update(f"Sorting the data set: {tokens:,} tokens")


def _as_json(
    tracer: Tracer, traced: Trace | None, copied: list[Copied], losses: list[CheckpointLoss]
) -> dict[str, Any]:
    """What --json prints."""
    result: dict[str, Any] = {
        "run": tracer.run.name,
        "step": tracer.run.status().step,
        "max_steps": tracer.config.train.max_steps,
    }
    if traced is not None:
        result |= asdict(traced)
        result["losses"] = [asdict(row) for row in losses]
    if copied:
        result["generated"] = [
            asdict(one.novelty) | {"longest": one.longest and asdict(one.longest)} for one in copied
        ]
    return result


def _print(
    tracer: Tracer, traced: Trace | None, copied: list[Copied], losses: list[CheckpointLoss]
) -> None:
    console, step = Console(), tracer.run.status().step
    if traced is not None and traced.found:
        times = f"{traced.count:,} time{'s' * (traced.count > 1)}"
        console.print(f"The text is in the data set {times}:", highlight=False)
        console.print(_table([(None, one) for one in traced.occurrences], step))
    elif traced is not None:
        console.print("The text is absent from the data set.", highlight=False)
        _print_pieces(console, "Longest parts that are there:", traced.pieces, step)
    if losses:
        console.print(_loss_table(losses))
    for place, one in enumerate(copied, 1):
        found = one.novelty
        console.print(
            f"Text {place}: {found.copied:.1%} of {found.tokens:,} tokens are in copied spans of "
            f"{found.min_tokens} or more.",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        _print_pieces(console, "Longest:", [one.longest] if one.longest else [], step)


def _print_pieces(console: Console, title: str, pieces: list[Piece], step: int) -> None:
    """A table of the pieces, with the first occurrence of each."""
    if pieces:
        console.print(title, highlight=False)
        console.print(_table([(piece, piece.occurrences[0]) for piece in pieces], step))


def _table(rows: list[tuple[Piece | None, Occurrence]], step: int) -> Table:
    """Where each is, when it was seen until `step`, and when it will or would be."""
    table, with_pieces = Table(), any(piece for piece, _ in rows)
    if with_pieces:
        for column in ("text", "tokens", "count"):
            table.add_column(column, justify="left" if column == "text" else "right")
    for column in ("split", "document", "token", "seen at steps", "later", "in part"):
        table.add_column(column, justify="right" if column in ("document", "token") else "left")
    for piece, one in rows:
        first: list[Text | str] = []
        if piece:
            shown = repr(piece.text[:SHOWN_CHARACTERS]) + "…" * (len(piece.text) > SHOWN_CHARACTERS)
            first = [Text(shown), f"{piece.tokens:,}", f"{piece.count:,}"]
        table.add_row(
            *first, one.split, f"{one.document:,}", f"{one.token:,}",
            _shown([s for s in one.steps if s <= step]), _shown([s for s in one.steps if s > step]),
            _shown(one.partial_steps),
        )  # fmt: skip
    return table


def _shown(steps: list[int]) -> str:
    """The first steps and the last."""
    if len(steps) <= SHOWN_STEPS:
        return ", ".join(map(str, steps)) or NONE
    first = ", ".join(map(str, steps[: SHOWN_STEPS - 1]))
    return f"{first}, … {steps[-1]} ({len(steps):,} in all)"


def _loss_table(losses: list[CheckpointLoss]) -> Table:
    """With bars, the curve of the loss."""
    table, most = Table(), max(row.loss for row in losses)
    table.add_column("checkpoint", justify="right")
    table.add_column("loss of the text", justify="right")
    table.add_column("")
    for row in losses:
        bar = "█" * round(BAR_CHARACTERS * row.loss / most) if most > 0 else ""
        table.add_row(str(row.step), number(row.loss), bar)
    return table
