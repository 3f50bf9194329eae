"""What a place computes from the probe, on disk between two processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Observation:
    """What a place gives for the probe; None is what the place does not give.

    Attributes:
        logits: (N, T, V) of the windows.
        nats: negative log-likelihood of the windows, of a place that gives no logits.
        tokens: greedy tokens of each prompt, stop token included.
        texts: greedy texts, of a place that gives no ids.
        string_ids: token ids of the fuzzed strings, or of the first of them.
        chat_ids: token ids of the conversations, with a generation prompt.
        stop_ids: the token ids that end generation.
        num_weights: weights that equal the model's, tensor by tensor.
        faults: sentences that name what is wrong, found where the place is at hand.
        notes: versions and device.
        skipped: why there is nothing to observe here.
        error: why it could not be observed.
    """

    logits: np.ndarray | None = None
    nats: float | None = None
    tokens: list[list[int]] | None = None
    texts: list[str] | None = None
    string_ids: list[list[int]] | None = None
    chat_ids: list[list[int]] | None = None
    stop_ids: list[int] | None = None
    num_weights: int | None = None
    faults: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    skipped: str | None = None
    error: str | None = None

    def write(self, folder: Path, name: str) -> None:
        values = asdict(self)
        if values.pop("logits") is not None and self.logits is not None:
            np.save(folder / f"{name}.npy", self.logits.astype("float32"))
        (folder / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, name: str) -> Observation | None:
        """The observation called `name`; None if it was not written."""
        file, logits = folder / f"{name}.json", folder / f"{name}.npy"
        if not file.is_file():
            return None
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        assert set(values) <= {f.name for f in fields(cls)}
        return cls(**values, logits=np.load(logits) if logits.is_file() else None)


@dataclass(frozen=True)
class Expected:
    """What the reference gives for the probe, and the model directory's own tokenizer.

    Attributes:
        logits: (N, T, V) float64 of the windows.
        tokens: greedy tokens of each prompt, stop token included.
        token_logits: of each prompt, the logits (n, V) that these were chosen from.
        string_ids, chat_ids, stop_ids: as in `Observation`; `chat_ids` is None without a template.
    """

    logits: np.ndarray
    tokens: list[list[int]]
    token_logits: list[np.ndarray]
    string_ids: list[list[int]]
    chat_ids: list[list[int]] | None
    stop_ids: list[int]

    @property
    def largest_logit(self) -> float:
        """The unit of the bounds on logits."""
        return float(np.abs(self.logits).max())
