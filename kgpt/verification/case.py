"""What a place is given to be observed, as plain values that go to another process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kgpt.verification.bounds import BOUNDS, Bounds
from kgpt.verification.probe import Probe


@dataclass(frozen=True)
class Case:
    """A model and the inputs.

    Attributes:
        folder: the model directory, or an adapter's.
        probe: the inputs.
        work: a folder for files that the place needs, such as an export.
        export: an existing export to observe in place of a new one.
        precision: a key of `BOUNDS`.
    """

    folder: Path
    probe: Probe
    work: Path
    export: Path | None = None
    precision: str = "float32"

    @property
    def bounds(self) -> Bounds:
        return BOUNDS[self.precision]
