"""Command-line flags rendered from `SamplingConfig`, so that they are declared once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import CoercionError, Group, Parameter, Token

from kgpt.config import SamplingConfig

GROUP = Group("Sampling", sort_key=1)


def _flags() -> type:
    """A dataclass with each field of `SamplingConfig`, None where the flag was not given."""
    fields: list[tuple[str, Any, Any]] = []
    for name, field in SamplingConfig.model_fields.items():
        kind = bool if field.annotation is bool else field.annotation
        if name == "logit_bias":
            kind = dict[str, float]  # --logit-bias.50 -2
        elif name in ("stop", "bad_words"):
            kind = list[str]
        is_whole = kind in (int, int | None)
        shown = Annotated[
            kind | None,  # type: ignore[valid-type]
            Parameter(
                help=field.description, group=GROUP, negative=(), show_default=False,
                converter=_whole if is_whole else None,
            ),
        ]  # fmt: skip
        fields.append((name, shown, dataclasses.field(default=None)))
    made = dataclasses.make_dataclass("SamplingFlags", fields, kw_only=True)
    made.__module__ = __name__  # a class of module `types` is not taken apart into flags
    return made


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    """An integer; by itself cyclopts would take 0.9, as of --top-p, for the --top-k of 0."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise CoercionError(token=tokens[0], target_type=int) from None


Whole = Annotated[int, Parameter(converter=_whole)]
Flags: Any = _flags()
SamplingFlags: Any = Annotated[Flags, Parameter(name="*")]
NONE = Flags()


def given(flags: Any) -> dict[str, Any]:
    """The settings that were given, validated by `SamplingConfig`; a bad one is a `UsageError`."""
    values = dataclasses.asdict(flags)
    changes = {name: value for name, value in values.items() if value is not None}
    SamplingConfig.parse(changes)
    return changes


def over(defaults: SamplingConfig, changes: dict[str, Any]) -> SamplingConfig:
    """The model's defaults with the given settings over them."""
    return SamplingConfig.parse(defaults.model_dump() | changes)
