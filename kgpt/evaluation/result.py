"""What an evaluation found, with all that is needed to repeat it, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from kgpt.errors import DataError
from kgpt.evaluation.statistic import Statistic
from kgpt.files import describe_damage, os_errors_as_kgpt, write_text
from kgpt.versions import installed_versions

FORMAT = 1
PACKAGES = ("keras", "jax", "tensorflow", "torch", "numpy", "tokenizers")


@dataclass(frozen=True)
class Estimate:
    """A figure and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Sample:
    """A generated text.

    Attributes:
        prompt: what it continues.
        text: the continuation alone.
        reference: what it is compared with, if anything.
        values: its metrics.
    """

    prompt: str
    text: str
    reference: str | None = None
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationResult:
    """The figures of one model on one data set.

    Attributes:
        name: of the model, as it was given.
        model: what identifies it: its hash, its size.
        data: the same of the data: sources, hash, counts of documents, tokens, words and bytes.
        settings: every option that the figures depend on.
        metrics: the figures by name, with confidence intervals.
        statistics: where they come from, a row for each document or prompt: paired comparisons
            draw the same rows of two models.
        samples: generated texts, in the order of the prompts.
        loss_by_position: the mean loss of tokens with at least so many before them, and fewer than
            twice as many.
        versions: of kgpt, of the libraries and of Python; and the backend.
    """

    name: str
    model: dict[str, Any]
    data: dict[str, Any]
    settings: dict[str, Any]
    metrics: dict[str, Estimate] = field(default_factory=dict)
    statistics: dict[str, Statistic] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    loss_by_position: list[tuple[int, float]] = field(default_factory=list)

    def as_dict(self, with_statistics: bool = True) -> dict[str, Any]:
        """JSON values; without the rows of items if not `with_statistics`."""
        values = asdict(self)
        del values["statistics"]
        if with_statistics:
            rows = {name: statistic.as_dict() for name, statistic in self.statistics.items()}
            values["statistics"] = rows
        return values

    def joined(self, other: Self) -> Self:
        """This result with the figures and samples of another evaluation of the same model."""
        return replace(
            self,
            data=self.data | other.data | {"sources": self.data["sources"] + other.data["sources"]},
            settings=self.settings | other.settings,
            metrics=self.metrics | other.metrics,
            statistics=self.statistics | other.statistics,
            samples=self.samples + other.samples,
            loss_by_position=self.loss_by_position or other.loss_by_position,
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        return cls(
            **{key: values[key] for key in ("name", "model", "data", "settings", "versions")},
            metrics={name: Estimate(**found) for name, found in values["metrics"].items()},
            statistics={
                name: Statistic.from_dict(found)
                for name, found in values.get("statistics", {}).items()
            },
            samples=[Sample(**found) for found in values["samples"]],
            loss_by_position=[(n, loss) for n, loss in values.get("loss_by_position", [])],
        )


def save_results(results: Sequence[EvaluationResult], file: Path) -> None:
    """Write results as one JSON file."""
    values = {"format": FORMAT, "results": [result.as_dict() for result in results]}
    with os_errors_as_kgpt(f"write {file}"):
        write_text(file, json.dumps(values, ensure_ascii=False) + "\n")


def load_results(file: Path) -> list[EvaluationResult]:
    """Read what `save_results` wrote; raises `DataError` if it is something else."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']} is not known")
        return [EvaluationResult.from_dict(found) for found in values["results"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(describe_damage(file, error)) from None


def versions(backend: str | None = None) -> dict[str, str]:
    """Of kgpt, the libraries that are installed, and Python; with the name of the backend."""
    return installed_versions(*PACKAGES) | ({"backend": backend} if backend else {})
