"""The report of an evaluation: one HTML file that loads nothing and runs no script."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgpt.evaluation.bootstrap import CONFIDENCE, RESAMPLES, Difference
from kgpt.evaluation.comparison import differences, verdict
from kgpt.evaluation.plots import IntervalPlot, LinePlot, histogram, interval_plot, line_plot
from kgpt.evaluation.result import Estimate, EvaluationResult, Sample
from kgpt.evaluation.statistic import Better
from kgpt.files import os_errors_as_kgpt, write_text
from kgpt.formatting import NONE

TEMPLATE = "report.html.jinja"
HISTOGRAMS = {
    "loss": ("Loss of documents", "nats a token", "documents"),
    "length_words": ("Length of generated texts", "words", "texts"),
}
LABELS = {
    "bits_per_byte": "bits per byte",
    "bleu": "BLEU",
    "chrf": "chrF",
    "copied": "copied (share)",
    "length_words": "length (words)",
    "length_characters": "length (characters)",
    "longest_copy": "longest copy (tokens)",
    "mtld": "MTLD",
    "self_bleu": "self-BLEU",
    "ter": "TER",
    "type_token_ratio": "type-token ratio",
}
HYPHENATED = ("rep_", "distinct_", "rouge_")
ARROWS: dict[Better | None, str] = {"higher": "↑", "lower": "↓", None: ""}


@dataclass(frozen=True)
class Cell:
    """A metric of one model, and its difference from the first model's."""

    estimate: Estimate | None
    difference: Difference | None

    @property
    def verdict(self) -> str:
        """ "better", "worse" or "" for no difference that can be told."""
        winner = self.difference.winner if self.difference else None
        return {"A": "worse", "B": "better", None: ""}[winner]


@dataclass(frozen=True)
class MetricRow:
    """One metric of all models."""

    name: str
    better: Better | None
    cells: list[Cell]
    plot: IntervalPlot


@dataclass(frozen=True)
class Comparison:
    """All models on the same data; the first is the baseline of the others."""

    title: str
    data: dict[str, Any]
    confidence: float
    results: list[EvaluationResult]
    rows: list[MetricRow]
    verdicts: list[str]
    plots: list[tuple[str, LinePlot]]
    samples: list[list[Sample | None]]
    settings: list[tuple[str, list[str]]]


def write_report(results: Sequence[EvaluationResult], file: Path, command: str = "") -> None:
    """Write the report of `results`: figures, plots, samples, and all that is needed to repeat it.

    Results on the same data are shown side by side, and compared with the first of them.

    Args:
        command: the command line that gives the same results, if there is one.

    Raises:
        KgptError: the file cannot be written.
    """
    with os_errors_as_kgpt(f"write {file}"):
        write_text(file, render(results, command))


def render(results: Sequence[EvaluationResult], command: str = "") -> str:
    """The report as HTML. Text of models and data is escaped; lone surrogates are replaced."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("kgpt", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "label": label, "setting": setting}
    comparisons = [compare(group) for group in same_data(results)]
    template = environment.get_template(TEMPLATE)
    html = template.render(comparisons=comparisons, command=command, ARROWS=ARROWS)
    return html.encode("utf-8", "replace").decode("utf-8")


def same_data(results: Sequence[EvaluationResult]) -> list[list[EvaluationResult]]:
    """The results by what they were measured on, in the order in which the data first occur."""
    groups: dict[str, list[EvaluationResult]] = {}
    for result in results:
        measured_on = result.data.get("sha256") or json.dumps(result.data, default=str)
        groups.setdefault(measured_on, []).append(result)
    return list(groups.values())


def compare(results: list[EvaluationResult]) -> Comparison:
    """What the report says about models on the same data."""
    first, *others = results
    confidence = first.settings.get("confidence", CONFIDENCE)
    options = (
        first.settings.get("resamples", RESAMPLES),
        confidence,
        first.settings.get("bootstrap_seed", 0),
    )
    found = [{}, *(differences(first, other, *options) for other in others)]
    return Comparison(
        title=", ".join(map(str, first.data.get("sources") or ["data"])),
        data=first.data,
        confidence=confidence,
        results=results,
        rows=metric_rows(results, found),
        verdicts=[
            verdict(first.name, other.name, own, confidence)
            for other, own in zip(others, found[1:], strict=True)
        ],
        plots=plots_of(results),
        samples=aligned_samples(results),
        settings=settings_table(results),
    )


def metric_rows(
    results: Sequence[EvaluationResult], found: Sequence[dict[str, Difference]]
) -> list[MetricRow]:
    """A row for each metric that any model has."""
    rows = []
    for name in dict.fromkeys(name for result in results for name in result.metrics):
        estimates = [result.metrics.get(name) for result in results]
        cells = [Cell(one, own.get(name)) for one, own in zip(estimates, found, strict=True)]
        statistics = [result.statistics[name] for result in results if name in result.statistics]
        better = statistics[0].better if statistics else None
        rows.append(MetricRow(name, better, cells, interval_plot(estimates)))
    return rows


def plots_of(results: Sequence[EvaluationResult]) -> list[tuple[str, LinePlot]]:
    """How losses of documents and lengths of texts are distributed, and the loss by position."""
    plots = []
    curves = [[(math.log2(n), loss) for n, loss in one.loss_by_position] for one in results]
    if max(map(len, curves)) > 1:
        plot = line_plot(curves, "tokens before it (log2)", "nats a token")
        plots.append(("Loss by position of a token in its window", plot))
    for name, (title, *axes) in HISTOGRAMS.items():
        statistics = [result.statistics.get(name) for result in results]
        values = [[] if one is None else one.item_values.tolist() for one in statistics]
        if max(map(len, values)) > 1:
            plots.append((title, histogram(values, *axes)))
    return plots


def aligned_samples(results: Sequence[EvaluationResult]) -> list[list[Sample | None]]:
    """The samples of all models for each prompt: a row a sample, a column a model."""
    most = max(len(result.samples) for result in results)
    padded = [[*result.samples, *[None] * (most - len(result.samples))] for result in results]
    return [list(row) for row in zip(*padded, strict=True)]


def settings_table(results: Sequence[EvaluationResult]) -> list[tuple[str, list[str]]]:
    """Identity, options and versions of each model, a row for each."""
    columns = [
        {
            **{f"model.{name}": value for name, value in result.model.items()},
            **result.settings,
            **{f"version.{name}": value for name, value in result.versions.items()},
        }
        for result in results
    ]
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, [setting(column.get(name)) for column in columns]) for name in names]


# -- text ------------------------------------------------------------------------------------------


def label(metric: str) -> str:
    """The name of a metric as papers write it.

    >>> label("rep_4"), label("rouge_l"), label("token_perplexity")
    ('rep-4', 'ROUGE-L', 'token perplexity')
    """
    if metric.startswith(HYPHENATED):
        name = metric.replace("_", "-")
        return name.upper() if metric.startswith("rouge") else name
    return LABELS.get(metric, metric.replace("_", " "))


def figure(value: float, sign: bool = False) -> str:
    """A number in four or five digits, with thousands separators.

    >>> figure(0.123456), figure(12.3456), figure(12345.6), figure(-0.25, sign=True)
    ('0.1235', '12.35', '12,346', '−0.2500')
    """
    if not math.isfinite(value):
        return NONE
    size = abs(value)
    digits = next((d for limit, d in ((1, 4), (10, 3), (100, 2), (1000, 1)) if size < limit), 0)
    form = f"{value:{'+' if sign else ''},.{digits}f}"
    if size >= 1e7 or (value and size < 5e-5):
        form = f"{value:{'+' if sign else ''}.3e}"
    return form.replace("-", "−") if sign else form


def setting(value: Any) -> str:
    """The value of an option as text.

    >>> setting(None), setting(True), setting(["a.txt", "b.txt"]), setting(0.95)
    ('–', 'yes', 'a.txt, b.txt', '0.95')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(setting, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {setting(one)}" for key, one in value.items())
    return NONE if value is None else f"{value:,}" if type(value) is int else str(value)
