"""When was this learned? Where a text stands in the data set of a run, and at which steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kgpt.config import Config
from kgpt.data.novelty import Novelty, Span, longest_spans, novelty, separate_spans
from kgpt.data.shards import TokenDataset
from kgpt.data.suffix_array import Progress, open_suffix_arrays
from kgpt.errors import DataError, UsageError
from kgpt.lab.lineage import Lineage
from kgpt.lab.passages import Place, TextSearch
from kgpt.lab.windows import Window
from kgpt.runs import Run

OBJECTIVES = (None, "sft", "distill")  # those that learn the tokens of a prepared data set
MAX_PIECES = 5


@dataclass(frozen=True)
class Occurrence:
    """A place in the data set.

    Attributes:
        split: "train" or "val"; what is in "val" has no steps.
        document: number of the document in the split, from 0.
        token, tokens: offset in the split of its first token, and how many there are.
        steps: those of which a row of the batch has it whole.
        partial_steps: those of which a row has some of it, cut by the end of the row.
        windows: the rows, see `Window`.
    """

    split: str
    document: int
    token: int
    tokens: int
    steps: list[int]
    partial_steps: list[int]
    windows: list[Window]


@dataclass(frozen=True)
class Piece:
    """A part of a text that is in the data set.

    Attributes:
        text: of the piece.
        tokens: how many it has.
        count: how often it is in the data set.
        occurrences: the first of them.
    """

    text: str
    tokens: int
    count: int
    occurrences: list[Occurrence]


@dataclass(frozen=True)
class Trace:
    """What the data set of a run has of a text.

    Attributes:
        text: that was looked for.
        found: whether it is there as a whole.
        count: how often.
        occurrences: the first of them in each split.
        longest: its longest part that is there, if the whole is not; None if no token is.
        pieces: parts that do not overlap, the longest first, if the whole is not there.
    """

    text: str
    found: bool
    count: int
    occurrences: list[Occurrence]
    longest: Piece | None = None
    pieces: list[Piece] = field(default_factory=list)


@dataclass(frozen=True)
class Copied:
    """What of a generated text is copied from the data set, and where its longest span stands."""

    novelty: Novelty
    longest: Piece | None


@dataclass(frozen=True)
class CheckpointLoss:
    """The mean loss of a text's tokens but the first, in nats, of the checkpoint at a step."""

    step: int
    loss: float


class Tracer:
    """Looks up texts in the data set of a run.

    Args:
        run: of pretraining, supervised fine-tuning or distillation.
        data: the folder of its data set, where that has been moved.
        index: the folder of the suffix arrays; beside the data set if not given.
        progress: called with the number of tokens sorted so far, while these are built.

    Raises:
        UsageError: the run does not learn the tokens of a prepared data set.
        DataError: its data set is not found, or has changed since.
    """

    def __init__(
        self,
        run: Run,
        data: Path | None = None,
        index: Path | None = None,
        progress: Progress = lambda tokens: None,
    ):
        self.run, self.config = run, Config.load(str(run.path / "run.yaml"))
        self.data = _data_set(run, self.config, data)
        self.tokenizer = self.data.tokenizer
        self.arrays = open_suffix_arrays(self.data, index, progress)
        self.texts = TextSearch(self.arrays, self.tokenizer)
        self.windows = Lineage(run, self.data)
        self._documents = {split: self.data.document_offsets(split) for split in self.arrays}

    def trace(self, text: str, limit: int = 10) -> Trace:
        """Where `text` is in the data set, or its longest parts.

        Args:
            limit: how many occurrences of each split to give.
        """
        if not text:
            raise UsageError("The text is empty; give the text to look for.")
        places = self.texts.find(text, limit)
        occurrences = [self._occurrence(place) for place in places.first]
        if places.count:
            return Trace(text, True, places.count, occurrences)
        several = self.texts.variants(text)
        variants = ((ids, longest_spans(ids, self.arrays)) for ids in several)
        ids, spans = max(variants, key=lambda pair: _longest(pair[1]))
        pieces = [self._piece(ids, span, limit) for span in separate_spans(spans, MAX_PIECES)]
        return Trace(text, False, 0, [], pieces[0] if pieces else None, pieces)

    def copied(self, text: str, min_tokens: int, limit: int = 1) -> Copied:
        """How much of a generated text is copied from the data set."""
        ids = np.array(self.tokenizer.encode(text), np.int64)
        found = novelty(ids, self.arrays, min_tokens)
        longest = self._piece(ids, found.longest, limit) if found.longest else None
        return Copied(found, longest)

    def _piece(self, ids: np.ndarray, span: Span, limit: int) -> Piece:
        some = ids[span.start : span.start + span.tokens]
        count = sum(array.count(some) for array in self.arrays.values())
        occurrences = [
            self._occurrence(Place(split, token, len(some)))
            for split, array in self.arrays.items()
            for token in array.find(some, limit).tolist()
        ]
        text = self.tokenizer.decode(some.tolist(), continues=True)
        return Piece(text, len(some), count, occurrences)

    def _occurrence(self, place: Place) -> Occurrence:
        offsets = self._documents[place.split]
        document = int(np.searchsorted(offsets, np.uint64(place.token), side="right")) - 1
        end = place.token + place.tokens
        windows = self.windows.find(place.token, end) if place.split == "train" else []
        whole = {window.step for window in windows if window.whole}
        partial = {window.step for window in windows} - whole
        steps = sorted(whole), sorted(partial)
        return Occurrence(place.split, document, place.token, place.tokens, *steps, windows)


def checkpoint_losses(run: Run, ids: list[int]) -> list[CheckpointLoss]:
    """The loss of a text at each checkpoint of a run, in windows of the model's context.

    Raises `UsageError` if the text has fewer than two tokens, of which the first has no loss.
    """
    from kgpt.data.shards import TokenStream
    from kgpt.evaluation.perplexity import perplexity

    if len(ids) < 2:
        raise UsageError("A text of one token has no loss; give a longer one, or --no-loss.")
    stream = TokenStream([np.array(ids, np.int64)])
    steps = run.checkpoint_steps()
    folders = (run.checkpoint_path(step) for step in steps)
    losses = (math.log(perplexity(folder, stream, len(ids))) for folder in folders)
    return [CheckpointLoss(*pair) for pair in zip(steps, losses, strict=True)]


def _longest(spans: list[Span]) -> int:
    return max((span.tokens for span in spans), default=0)


def _data_set(run: Run, config: Config, folder: Path | None) -> TokenDataset:
    """The data set of a run; raises `DataError` if it is another one now."""
    if config.finetune.objective not in OBJECTIVES:
        raise UsageError(
            f"The run {run.name} learns by {config.finetune.objective}, not the tokens of a "
            "prepared data set, so its texts cannot be traced; name a run of `kgpt train`, "
            "`kgpt distill` or supervised fine-tuning."
        )
    path = folder or run.data_path()
    if path is None:
        raise DataError(f"The run {run.name} does not say what it is trained on; give --data DIR.")
    data, recorded = TokenDataset(path), run.data()
    if recorded is not None and recorded.sha256 != data.manifest.content_sha256:
        raise DataError(
            f"The data set {path} is not the one that the run {run.name} was trained on; give "
            "that one with --data."
        )
    return data
