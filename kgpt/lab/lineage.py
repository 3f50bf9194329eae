"""When a run has seen tokens: a fork has the steps of its parents before its own."""

from __future__ import annotations

from pathlib import Path

from kgpt.config import Config
from kgpt.data.shards import TokenDataset
from kgpt.lab.windows import Window, Windows
from kgpt.runs import Run, parent_of


class Lineage:
    """The windows of a run, by its options, and before it was forked by those of its parents.

    A parent that is gone had the options of its fork, as far as is known. One that was trained on
    another data set saw none of this.

    Args:
        data: the data set of the run.
    """

    def __init__(self, run: Run, data: TokenDataset):
        self.windows = Windows(data, Config.load(str(run.path / "run.yaml")))
        self.first_step = 1
        self.parent: Lineage | None = None
        parent = parent_of(run)
        if parent is None or not Run(Path(parent.path)).exists:
            return
        self.first_step, before = parent.step + 1, Run(Path(parent.path))
        recorded = before.data()
        if recorded is None or recorded.sha256 == data.manifest.content_sha256:
            self.parent = Lineage(before, data)

    def find(self, begin: int, end: int) -> list[Window]:
        """The windows of the tokens [begin, end) of the split "train", in the order of steps."""
        before = self.parent.find(begin, end) if self.parent else []
        own = self.windows.find(begin, end)
        return [
            *(window for window in before if window.step < self.first_step),
            *(window for window in own if window.step >= self.first_step),
        ]
