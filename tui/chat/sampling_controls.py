"""Formats, steps and parses the fields of `SamplingConfig`; bounds come from its declaration."""

from __future__ import annotations

import json
import math
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from kgpt.config import SamplingConfig
from kgpt.errors import UsageError

MIDDLE = 40.0  # the value at half of an unbounded bar, for a field whose default is none


class Control:
    """One field: its type and bounds, and how a value is formatted, stepped and parsed."""

    def __init__(self, name: str, field: FieldInfo):
        self.name = name
        self.default = field.get_default(call_default_factory=True)
        self.help = field.description or ""
        annotation = field.annotation
        members = [kind for kind in get_args(annotation) if kind is not NoneType]
        self.optional = NoneType in get_args(annotation)
        self.kind: Any = members[0] if self.optional else get_origin(annotation) or annotation
        self.low, self.high = _bounds(field)

    @property
    def is_number(self) -> bool:
        return self.kind in (int, float)

    @property
    def bounds(self) -> str:
        """The bounds as text."""
        if not self.is_number:
            return {bool: "on or off", list: "one per line", dict: "id: bias, one per line"}.get(
                self.kind, ""
            )
        if math.isinf(self.high):
            return f"{self.low:g} or more"
        return f"{self.low:g} to {self.high:g}"

    def fraction(self, value: Any) -> float:
        """The filled fraction of a bar: linear in narrow ranges, x / (x + middle) in wide ones."""
        if value is None:
            return 0.0
        if self.high - self.low <= 20:
            return (value - self.low) / (self.high - self.low)
        middle = self.default or MIDDLE
        return (value - self.low) / (value - self.low + middle)

    def at_fraction(self, fraction: float) -> Any:
        """The inverse of `fraction`."""
        fraction = min(max(fraction, 0.0), 1.0)
        if self.high - self.low <= 20:
            value = self.low + fraction * (self.high - self.low)
        else:
            fraction = min(fraction, 0.995)
            value = self.low + (self.default or MIDDLE) * fraction / (1 - fraction)
        return self._rounded(value)

    def stepped(self, value: Any, steps: int) -> Any:
        """The value after `steps` key presses."""
        if self.kind is bool:
            return not value
        if not self.is_number:
            return value
        if value is None:
            return self._rounded(max(steps, 0))
        if self.kind is int:
            size = 1 if value < 20 else 10 ** (int(math.log10(value)) - 1)
        else:
            size = 0.05 if value <= 2 else 0.1
        return self._rounded(value + steps * size)

    def _rounded(self, value: float) -> Any:
        value = min(max(value, self.low), self.high)
        if self.kind is int:
            return round(value)
        lowest = 0.01 if self.low == 0 and not self._accepts(0.0) else self.low
        return max(round(value, 2), lowest)

    def _accepts(self, value: Any) -> bool:
        try:
            SamplingConfig.parse({self.name: value})
        except UsageError:
            return False
        return True

    def text(self, value: Any) -> str:
        """The value in a few characters."""
        if value is None:
            return "random" if self.name == "seed" else "none"
        if self.kind is bool:
            return "on" if value else "off"
        if self.kind in (list, dict):
            return f"{len(value)} given" if value else "none"
        return f"{value:.2f}" if self.kind is float else str(value)

    def editable(self, value: Any) -> str:
        """The value as text that `parse` accepts."""
        if value is None:
            return ""
        if self.kind is list:
            return "\n".join(json.dumps(item, ensure_ascii=False)[1:-1] for item in value)
        if self.kind is dict:
            return "\n".join(f"{key}: {bias:g}" for key, bias in value.items())
        return self.text(value) if self.kind is bool else f"{value}"

    def parse(self, text: str) -> Any:
        """The value of a typed text, not validated: `SamplingConfig` does that."""
        lines = [line for line in text.split("\n") if line]
        if self.kind is list:
            return [_unescaped(line) for line in lines]
        if self.kind is dict:
            pairs = (line.partition(":") for line in lines)
            return {key.strip(): bias.strip() for key, _, bias in pairs}
        if self.kind is bool:
            return {"on": True, "off": False}.get(text.strip(), text.strip())
        return None if self.optional and not text.strip() else text.strip()


def controls() -> dict[str, Control]:
    """A control for each field, in the order they are declared."""
    return {name: Control(name, field) for name, field in SamplingConfig.model_fields.items()}


def problem_with(sampling: SamplingConfig, control: Control, text: str) -> str:
    """What is wrong with `text` as the value of a field, or an empty string."""
    try:
        SamplingConfig.parse(sampling.model_dump() | {control.name: control.parse(text)})
    except UsageError as error:
        return str(error)
    return ""


def _bounds(field: FieldInfo) -> tuple[float, float]:
    low, high = -math.inf, math.inf
    for rule in field.metadata:
        low = getattr(rule, "ge", getattr(rule, "gt", low))
        high = getattr(rule, "le", getattr(rule, "lt", high))
    return float(low), float(high)


def _unescaped(line: str) -> str:
    try:
        return str(json.loads(f'"{line}"'))
    except ValueError:
        return line
