"""`kgpt eval`: how good models are, how sure that is, and which of them is better."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.cli.options import NO_FLAGS, MemoryFraction, SamplingFlags, StrictInt, given_flags
from kgpt.config import EvaluationConfig, EvaluationSuite, SuiteEntry
from kgpt.errors import UsageError

if TYPE_CHECKING:
    from kgpt.evaluation.bootstrap import Difference
    from kgpt.evaluation.result import EvaluationResult


def evaluate(
    *,
    model: Annotated[list[str] | None, Parameter(negative_iterable=())] = None,
    server: str | None = None,
    tokenizer: str | None = None,
    suite: str | None = None,
    config: Annotated[
        EvaluationConfig | None, Parameter(name="*", negative_iterable=(), negative_none=())
    ] = None,
    sampling: SamplingFlags = NO_FLAGS,
    out: str | None = None,
    report: str | None = None,
    tasks: str | None = None,
    num_fewshot: StrictInt | None = None,
    apply_chat_template: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
    memory_fraction: MemoryFraction = None,
) -> None:
    """Measure how well models predict and continue texts, and compare them.

    Of --data: loss, perplexity of tokens and of words, and bits per byte, which compares models
    whatever their tokenizers. Of --prompts: length, repetition, diversity and coherence of
    completions, and their overlap with references. Each figure has a confidence interval; with
    several models each is compared with the first, on the same documents and prompts.

    Parameters
    ----------
    model
        A model: a directory, a run (its best checkpoint), run@step, an adapter's folder, or a name
        on the Hugging Face hub; repeat it to compare models.
    server
        The address of an OpenAI-compatible server whose /v1/completions has echo and logprobs; it
        is evaluated after the models, on --data.
    tokenizer
        A model with the tokenizer of the server's.
    suite
        A YAML file of several evaluations, in place of --data, --prompts and their options.
    out
        A folder for results.json, with the values of each document and prompt, and for what is
        finished: the same command goes on where it was interrupted. Of --tasks, for tasks.json.
    report
        A file for a report in HTML: figures, plots, samples and settings; it needs no network,
        and with a suite there is one for each evaluation.
    tasks
        Benchmarks of lm-eval in place of --data, by name or as YAML files, separated by commas:
        hellaswag,arc_easy,local.yaml.
    num_fewshot
        Examples before each question of a task; as the task says when not given.
    apply_chat_template
        Ask the questions of tasks as a user in a conversation.
    as_json
        Print one JSON object for each evaluation.
    quiet
        Print nothing.
    """
    if not model and server is None:
        raise UsageError("No model is named; give one with --model, or a server with --server.")
    if (server is None) != (tokenizer is None):
        raise UsageError("--server and --tokenizer belong together; give both.")
    if tasks is not None:
        if server or suite or report or given_flags(sampling):
            raise UsageError(
                "--tasks runs models here; leave --server, --suite, --report and sampling out."
            )
        prepare_process(memory_fraction)
        silence_native_code()
        from kgpt.cli.eval_tasks import evaluate_tasks, show_tasks

        config, target = config or EvaluationConfig(), Path(out) if out else None
        answers = evaluate_tasks(
            model or [], tasks, config, num_fewshot, apply_chat_template, target
        )
        show_tasks(answers, as_json, Console(quiet=quiet))
        return
    entries = _entries(suite, config, given_flags(sampling))
    if server is not None and any(entry.prompts for entry in entries):
        raise UsageError("A server is evaluated on data alone; leave the prompts or --server out.")
    prepare_process(memory_fraction)
    silence_native_code()
    named = ModelNames(model or [], server, tokenizer)
    for entry in entries:
        folder = Path(out) / entry.name if out and suite else Path(out) if out else None
        results = evaluate_entry(named, entry, folder, Console(stderr=True))
        if report is not None:
            _write_report(results, Path(report), entry.name if suite else "")
        if as_json:
            found = [result.as_dict(False) for result in results]
            print(json.dumps({"name": entry.name, "results": found}, ensure_ascii=False))
        else:
            show(results, entry, Console(quiet=quiet), entry.name if suite else "")


def _write_report(results: Sequence[EvaluationResult], file: Path, name: str) -> None:
    """Write the report of an evaluation, `name` added to the file's where there are several."""
    from kgpt.evaluation.report import write_report

    target = file.with_stem(f"{file.stem}-{name}") if name else file
    write_report(results, target, shlex.join(["kgpt", *sys.argv[1:]]))


@dataclass(frozen=True)
class ModelNames:
    """What is evaluated: models by name, and a server with the model that has its tokenizer."""

    models: Sequence[str]
    server: str | None = None
    tokenizer: str | None = None


def _entries(
    suite: str | None, config: EvaluationConfig | None, sampling: dict[str, Any]
) -> list[SuiteEntry]:
    """The evaluations of a suite, or the one that flags describe."""
    if suite is not None:
        if config is not None or sampling:
            raise UsageError("A suite says itself what is evaluated; leave the other options out.")
        return EvaluationSuite.load(Path(suite)).evaluations
    config = config or EvaluationConfig()
    if not config.data and config.prompts is None:
        raise UsageError(
            "Nothing to evaluate on is named; give --data, --prompts, --tasks or --suite."
        )
    return [SuiteEntry(name="evaluation", sampling=sampling, **config.model_dump())]


def evaluate_entry(
    named: ModelNames, entry: SuiteEntry, out: Path | None, console: Console
) -> list[EvaluationResult]:
    """The results of all models, one in memory at a time."""
    from kgpt.evaluation.documents import read_documents
    from kgpt.evaluation.models import (
        evaluate_completions,
        evaluate_likelihood,
        open_model,
        open_server,
    )
    from kgpt.evaluation.prompts import read_prompts
    from kgpt.evaluation.result import save_results

    documents = read_documents(entry) if entry.data else []
    prompts = read_prompts(entry.prompts, entry.limit) if entry.prompts else []
    shown, results = progress_on(console), []
    for name in named.models:
        parts = []
        if documents:
            opened = open_model(name, entry)
            parts.append(evaluate_likelihood(opened, documents, entry, out, shown))
            del opened
        if prompts:
            sampling = entry.sampling
            parts.append(evaluate_completions(name, prompts, entry, sampling, out, shown))
        results.append(parts[0].joined(parts[1]) if len(parts) > 1 else parts[0])
    if named.server is not None and named.tokenizer is not None:
        opened = open_server(named.server, named.tokenizer, entry)
        results.append(evaluate_likelihood(opened, documents, entry, out, shown))
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


def show(
    results: Sequence[EvaluationResult],
    config: EvaluationConfig,
    console: Console,
    title: str = "",
) -> None:
    """Print the figures with their intervals, and what the comparisons say."""
    from kgpt.evaluation.comparison import differences, verdict

    options = (config.resamples, config.confidence, config.bootstrap_seed)
    first, *others = results
    compared = [differences(first, other, *options) for other in others]
    names = [result.name for result in results]
    console.print(_table(results, compared, title))
    counts = ("documents", "words", "bytes", "prompts")
    counted = [f"{first.data[name]:,} {name}" for name in counts if name in first.data]
    console.print(
        f"{', '.join(counted)}; {config.confidence:.0%} intervals by {config.resamples:,} draws of "
        "a bootstrap",
        highlight=False,
    )
    for name, found in zip(names[1:], compared, strict=True):
        console.print(Text(verdict(names[0], name, found, config.confidence)))


def _table(
    results: Sequence[EvaluationResult],
    compared: Sequence[dict[str, Difference]],
    title: str = "",
) -> Table:
    """A row for each metric: each model's value and interval, and the differences."""
    from kgpt.evaluation.report import label

    table = Table(title=title or None, title_justify="left")
    table.add_column("metric")
    for result in results:
        table.add_column(Text(result.name), justify="right")
    for result in results[1:]:
        table.add_column(Text(f"{result.name} - {results[0].name}"), justify="right")
    for metric in results[0].metrics:
        cells = []
        for result in results:
            found = result.metrics.get(metric)
            if found is None:
                cells.append("")
                continue
            interval = f"\n[{found.low:.4f}, {found.high:.4f}]" * (found.low < found.high)
            cells.append(f"{found.value:.4f}{interval}")
        for differences in compared:
            if metric not in differences:
                cells.append("")
                continue
            change = differences[metric].estimate
            interval = f"\n[{change.low:+.4f}, {change.high:+.4f}]" * (change.low < change.high)
            cells.append(f"{change.value:+.4f}{interval}")
        table.add_row(label(metric), *map(Text, cells))
    return table
