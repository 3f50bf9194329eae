"""The speed of a device as `kgpt bench train --json` measured it. No Keras here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgpt.config import Precision
from kgpt.datasheet import find_datasheet
from kgpt.errors import UsageError
from kgpt.files import os_errors_as_kgpt


@dataclass(frozen=True)
class Measurement:
    """FLOP/s that training reached on one device, counted as for the MFU."""

    config: str
    device: str
    precision: str
    flops_per_token: int
    batch_size: int
    flops_per_s: float

    def describe(self) -> str:
        rate = f"{self.flops_per_s / 1e12:,.3g} TFLOP/s"
        return f"measured: {self.config} at batch {self.batch_size} on {self.device}, {rate}"


def read_measurement(
    file: Path, device: str, precision: Precision, flops_per_token: int
) -> Measurement:
    """The measurement nearest in FLOPs per token; of its batch sizes, the fastest.

    Args:
        file: lines of `kgpt bench train --json`.
        device: the name of the planned device.

    Raises:
        UsageError: there is none of this device in this precision.
    """
    with os_errors_as_kgpt(f"read {file}"):
        lines = file.read_text(encoding="utf-8").splitlines()
    found = [one for line in lines if line.strip() for one in _parse(file, line)]
    fitting = [one for one in found if one.precision == precision and _is_same(one.device, device)]
    if not fitting:
        seen = ", ".join(sorted({f"{one.device} in {one.precision}" for one in found})) or "nothing"
        raise UsageError(
            f"{file} has {seen}, not {device} in {precision}; measure that with "
            "`kgpt bench train --json`."
        )
    return min(
        fitting,
        key=lambda one: (_ratio(one.flops_per_token, flops_per_token), -one.flops_per_s),
    )


def _parse(file: Path, line: str) -> list[Measurement]:
    try:
        figures: dict[str, Any] = json.loads(line)
        flops = figures["flops_per_token"]
        return [
            Measurement(
                figures["config"], figures["device"], figures["precision"], flops, row["batch"],
                row["tokens_per_s"] * flops,
            )
            for row in figures["batches"]
        ]  # fmt: skip
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"{file} has a line that is not of `kgpt bench train --json`: {line[:60]!r}."
        ) from None


def _is_same(measured: str, planned: str) -> bool:
    sheet = find_datasheet(measured)
    return measured == planned or (sheet is not None and sheet is find_datasheet(planned))


def _ratio(a: float, b: float) -> float:
    return max(a / b, b / a)
