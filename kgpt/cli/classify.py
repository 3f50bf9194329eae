"""`kgpt classify predict|eval`: the labels of texts, and how many of them are right."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.cli.options import Dtype, MemoryFraction
from kgpt.cli.streams import read_standard_input
from kgpt.config import DtypeOption
from kgpt.errors import DataError, UsageError
from kgpt.runs import resolve_model

if TYPE_CHECKING:
    from kgpt.generation.text_classifier import TextClassifier
    from kgpt.training.classification_metrics import ClassificationReport


def predict(
    *files: Annotated[str, Parameter(allow_leading_hyphen=True)],
    model: str,
    text: Annotated[list[str] | None, Parameter(negative_iterable=())] = None,
    text_field: str = "text",
    output_file: str = "-",
    dtype: Dtype = "auto",
    memory_fraction: MemoryFraction = None,
) -> None:
    """Write the labels of texts, one JSON object a text: text, label and scores.

    Parameters
    ----------
    files
        Files of rows (.csv, .jsonl, .json, .parquet) with a field of text; or of one text, or one
        JSON object, a line (.txt, and "-", standard input).
    model
        A classifier: a directory, a run (its best checkpoint), or run@step.
    text
        A text to classify, in place of files; repeat it for several.
    text_field
        The field of rows with the text.
    output_file
        Where the objects are written; "-" is standard output.
    """
    if bool(files) == bool(text):
        raise UsageError("Give either files (or - for standard input) or --text TEXT.")
    if unknown := [file for file in files if file.startswith("--")]:
        raise UsageError(f"Unknown option {unknown[0]}; see `kgpt classify predict --help`.")
    with _loaded(model, dtype, memory_fraction) as classifier, _open(output_file) as out:
        # Only now: loading may restart this process, which would lose standard input.
        texts = list(text or ()) or [found for file in files for found in _read(file, text_field)]
        for given, found in zip(texts, classifier.stream(texts), strict=True):
            out.write(json.dumps({"text": given} | found.as_dict(), ensure_ascii=False) + "\n")


def evaluate(
    *,
    model: str,
    data: Annotated[list[str], Parameter(negative_iterable=())],
    text_field: str = "text",
    label_field: str = "label",
    label_separator: str = "|",
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    dtype: Dtype = "auto",
    memory_fraction: MemoryFraction = None,
) -> None:
    """Compare a classifier's labels with those of a file: accuracy, F1, confusion, calibration.

    Parameters
    ----------
    model
        A classifier: a directory, a run (its best checkpoint), or run@step.
    data
        Files of rows with text and label; repeat it for several.
    text_field
        The field of rows with the text.
    label_field
        The field of rows with the label, or the labels where a text may have several.
    label_separator
        Stands between several labels in one text.
    as_json
        Print one JSON object.
    """
    from kgpt.data.labels import read_labelled

    with _loaded(model, dtype, memory_fraction) as classifier:
        multi_label = classifier.multi_label
        examples = read_labelled(data, text_field, label_field, multi_label, label_separator)
        targets = examples.targets(classifier.labels, multi_label)
        probabilities = classifier.probabilities(examples.texts)
    from kgpt.training.classification_metrics import report

    found = report(probabilities, targets, classifier.labels)
    if as_json:
        print(json.dumps(asdict(found), indent=2, ensure_ascii=False))
    else:
        show(found, Console())


@contextlib.contextmanager
def _loaded(
    model: str, dtype: DtypeOption, memory_fraction: float | None
) -> Iterator[TextClassifier]:
    folder = resolve_model(model)
    prepare_process(memory_fraction)
    silence_native_code()
    from kgpt.generation.text_classifier import TextClassifier

    with TextClassifier(folder, dtype=dtype) as classifier:
        yield classifier


def _read(source: str, field: str) -> list[str]:
    """The texts of a file: of its rows, or one a line."""
    if source != "-" and Path(source).suffix.lower() not in (".txt", ".md"):
        from kgpt.data.labels import read_texts

        return read_texts([source], field)
    try:
        whole = read_standard_input() if source == "-" else Path(source).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source} cannot be read: {error}.") from None
    lines = enumerate(whole.split("\n"), 1)  # a JSON string may hold U+2028
    return [
        _text_of(line, field, f"Line {number} of {source}")
        for number, line in lines
        if line.strip()
    ]


def _text_of(line: str, field: str, where: str) -> str:
    if not line.startswith("{"):
        return line.removesuffix("\r")
    try:
        text = json.loads(line)[field]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise DataError(f"{where} is not a JSON object whose {json.dumps(field)} is text.")
    return text


def _open(target: str) -> contextlib.AbstractContextManager[TextIO]:
    if target == "-":
        return contextlib.nullcontext(sys.stdout)
    try:
        return open(target, "w", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error}.") from None


# -- the report in a terminal ----------------------------------------------------------------------


def show(found: ClassificationReport, console: Console) -> None:
    """Print the figures of all labels, of each, the confusion matrix and the calibration."""
    for name, value in found.summary().items():
        figure = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
        console.print(f"{name.replace('_', ' ')}: {figure}", highlight=False)
    of_labels = _table("", ["label", "precision", "recall", "F1", "texts"])
    for label in found.labels:
        figures = (f"{x:.3f}" for x in (label.precision, label.recall, label.f1))
        of_labels.add_row(Text(label.label), *figures, str(label.support))
    console.print(of_labels)
    if found.confusion is not None:
        names = [label.label for label in found.labels]
        matrix = _table("texts of a label (rows) that were given another (columns)", ["", *names])
        for name, row in zip(names, found.confusion, strict=True):
            matrix.add_row(Text(name), *map(str, row))
        console.print(matrix)
    bins = _table("calibration", ["probability", "predictions", "mean", "right"])
    for part in found.bins:
        share = f"{part.lower:.1f}–{part.upper:.1f}"
        bins.add_row(share, str(part.count), f"{part.confidence:.3f}", f"{part.accuracy:.3f}")
    console.print(bins)


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title=title or None, title_justify="left")
    for number, name in enumerate(columns):
        table.add_column(Text(name), justify="right" if number else "left", no_wrap=not number)
    return table
