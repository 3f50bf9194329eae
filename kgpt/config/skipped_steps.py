"""Steps of a data set that a run skips: which data is trained on at which step."""

from __future__ import annotations

import re

RANGES = r"[1-9]\d*(-[1-9]\d*)?(,[1-9]\d*(-[1-9]\d*)?)*"


class SkippedSteps:
    """The data of some steps is left out, and that of later steps comes earlier.

    Args:
        text: steps from 1 as in metrics.jsonl, such as "1200-1230,1500"; None for none.

    Raises `ValueError` for a text of another form, or a range that ends before it begins.

    >>> skipped = SkippedSteps("3-4")
    >>> [skipped.data_step(step) for step in range(1, 6)]
    [1, 2, 5, 6, 7]
    >>> [skipped.step_of(data_step) for data_step in range(1, 6)]
    [1, 2, None, None, 3]
    """

    def __init__(self, text: str | None = None):
        if text is not None and not re.fullmatch(RANGES, text):
            raise ValueError(f"{text!r} is no list of steps such as 1200-1230,1500")
        self.ranges = _merged([_range(part) for part in (text or "").split(",") if part])

    def __len__(self) -> int:
        return sum(len(steps) for steps in self.ranges)

    def data_step(self, step: int) -> int:
        """The step whose data a run sees at its step `step`, both from 1."""
        for steps in self.ranges:
            if step >= steps.start:
                step += len(steps)
        return step

    def step_of(self, data_step: int) -> int | None:
        """The inverse of `data_step`; None for data that is skipped."""
        before = 0
        for steps in self.ranges:
            if data_step in steps:
                return None
            before += len(steps) if data_step >= steps.stop else 0
        return data_step - before

    def before(self, data_step: int) -> list[range]:
        """What is skipped up to the data of a step."""
        parts = [range(steps.start, min(steps.stop, data_step + 1)) for steps in self.ranges]
        return [steps for steps in parts if steps]


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    if last and int(last) < int(first):
        raise ValueError(f"{text} ends before it begins")
    return range(int(first), int(last or first) + 1)


def _merged(ranges: list[range]) -> list[range]:
    """In order, and those that touch or overlap as one."""
    merged: list[range] = []
    for steps in sorted(ranges, key=lambda each: each.start):
        if merged and steps.start <= merged[-1].stop:
            last = merged.pop()
            steps = range(last.start, max(last.stop, steps.stop))
        merged.append(steps)
    return merged
