"""`kgpt eval`: how good models are, how sure that is, and which of them is better."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.cli.options import MemoryFraction
from kgpt.config import EvaluationConfig
from kgpt.errors import UsageError

if TYPE_CHECKING:
    from kgpt.evaluation.bootstrap import Difference
    from kgpt.evaluation.models import EvaluatedModel
    from kgpt.evaluation.result import EvaluationResult

    Opener = Callable[[EvaluationConfig], EvaluatedModel]


def evaluate(
    *,
    model: Annotated[list[str] | None, Parameter(negative_iterable=())] = None,
    server: str | None = None,
    tokenizer: str | None = None,
    config: Annotated[
        EvaluationConfig | None, Parameter(name="*", negative_iterable=(), negative_none=())
    ] = None,
    out: str | None = None,
    report: str | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
    memory_fraction: MemoryFraction = None,
) -> None:
    """Measure how well models predict texts, with confidence intervals, and compare them.

    Loss, perplexity of tokens and of words, and bits per byte, which compares models whatever their
    tokenizers. With several models each is compared with the first, on the same documents.

    Parameters
    ----------
    model
        A model: a directory, a run (its best checkpoint), run@step, an adapter's folder, or a name
        on the Hugging Face hub; repeat it to compare models.
    server
        The address of an OpenAI-compatible server whose /v1/completions has echo and logprobs; it
        is evaluated after the models.
    tokenizer
        A model with the tokenizer of the server's.
    out
        A folder for results.json, with the values of each document, and for what is finished: the
        same command goes on where it was interrupted.
    report
        A file for a report in HTML: figures, plots, samples and settings; it needs no network.
    as_json
        Print one JSON object.
    quiet
        Print nothing.
    """
    config = config or EvaluationConfig()
    names = model or []
    if not names and server is None:
        raise UsageError("No model is named; give one with --model, or a server with --server.")
    if not config.data:
        raise UsageError("No data is named; give a data set or files with --data.")
    if (server is None) != (tokenizer is None):
        raise UsageError("--server and --tokenizer belong together; give both.")
    prepare_process(memory_fraction)
    silence_native_code()
    from kgpt.evaluation.models import open_model, open_server

    openers: list[Opener] = [partial(open_model, name) for name in names]
    if server is not None and tokenizer is not None:
        openers.append(partial(open_server, server, tokenizer))
    results = _evaluate(openers, config, Path(out) if out else None, Console(stderr=True))
    if report is not None:
        from kgpt.evaluation.report import write_report

        write_report(results, Path(report), shlex.join(["kgpt", *sys.argv[1:]]))
    if as_json:
        print(json.dumps([result.as_dict(False) for result in results], ensure_ascii=False))
    else:
        show(results, config, Console(quiet=quiet))


def _evaluate(
    openers: Sequence[Opener],
    config: EvaluationConfig,
    out: Path | None,
    console: Console,
) -> list[EvaluationResult]:
    """The results of all models, one in memory at a time."""
    from kgpt.evaluation.documents import read_documents
    from kgpt.evaluation.models import evaluate_likelihood
    from kgpt.evaluation.result import save_results

    documents = read_documents(config)
    results = []
    for open_one in openers:
        shown = progress_on(console)
        results.append(evaluate_likelihood(open_one(config), documents, config, out, shown))
    if out is not None:
        save_results(results, out / "results.json")
    return results


def progress_on(
    console: Console,
) -> Callable[[str, int], contextlib.AbstractContextManager[Callable[[int], None]]]:
    """Progress bars on a terminal; see `kgpt.evaluation.models.ShowProgress`."""

    @contextlib.contextmanager
    def show_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
        columns = (TextColumn("{task.description}", markup=False), BarColumn())
        bar = Progress(
            *columns, TaskProgressColumn(), TimeRemainingColumn(),
            console=console, disable=not console.is_terminal, transient=True,
        )  # fmt: skip
        with bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.advance(task, done)

    return show_progress


# -- the results in a terminal ---------------------------------------------------------------------


def show(results: Sequence[EvaluationResult], config: EvaluationConfig, console: Console) -> None:
    """Print the figures with their intervals, and what the comparisons say."""
    from kgpt.evaluation.comparison import differences, verdict

    options = (config.resamples, config.confidence, config.bootstrap_seed)
    first, *others = results
    compared = [differences(first, other, *options) for other in others]
    names = [result.name for result in results]
    console.print(_table(results, compared, config.confidence))
    counts = first.data
    console.print(
        f"{counts['documents']:,} documents, {counts['words']:,} words, {counts['bytes']:,} bytes; "
        f"{config.confidence:.0%} intervals by {config.resamples:,} bootstrap draws of documents",
        highlight=False,
    )
    for name, found in zip(names[1:], compared, strict=True):
        console.print(Text(verdict(names[0], name, found, config.confidence)))


def _table(
    results: Sequence[EvaluationResult],
    compared: Sequence[dict[str, Difference]],
    confidence: float,
) -> Table:
    """A row for each metric: each model's value and interval, and the differences."""
    table = Table()
    table.add_column("metric")
    for result in results:
        table.add_column(Text(result.name), justify="right")
    for result in results[1:]:
        table.add_column(Text(f"{result.name} - {results[0].name}"), justify="right")
    for metric in results[0].metrics:
        cells = []
        for result in results:
            found = result.metrics[metric]
            cells.append(f"{found.value:.4f}\n[{found.low:.4f}, {found.high:.4f}]")
        for differences in compared:
            change = differences[metric].estimate
            cells.append(f"{change.value:+.4f}\n[{change.low:+.4f}, {change.high:+.4f}]")
        table.add_row(metric.replace("_", " "), *map(Text, cells))
    return table
