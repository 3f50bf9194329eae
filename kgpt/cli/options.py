"""Command-line flags generated from the fields of sections of the configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from cyclopts import CoercionError, Group, Parameter, Token
from cyclopts.validators import Number

from kgpt.config import (
    DocumentSelectionConfig,
    DtypeOption,
    KVCacheDtype,
    SamplingConfig,
    Section,
    ServeConfig,
)
from kgpt.errors import UsageError

GROUP = Group("Sampling", sort_key=1)
SELECTION_GROUP = Group("Choice of documents", sort_key=1)


def _flags(section: type[Section], class_name: str, group: Group) -> type:
    """A dataclass with the fields of a section; a flag that is not given is None."""
    fields: list[tuple[str, Any, Any]] = []
    for name, field in section.model_fields.items():
        kind = bool if field.annotation is bool else field.annotation
        if name == "logit_bias":
            kind = dict[str, float]  # --logit-bias.50 -2
        elif name in ("stop", "bad_words") or kind == list[str]:
            kind = list[str]
        is_int = kind in (int, int | None)
        shown = Annotated[
            kind | None,  # type: ignore[valid-type]
            Parameter(
                help=field.description, group=group, negative=(), show_default=False,
                converter=_strict_int if is_int else None,
            ),
        ]  # fmt: skip
        fields.append((name, shown, dataclasses.field(default=None)))
    made = dataclasses.make_dataclass(class_name, fields, kw_only=True)
    made.__module__ = __name__  # a class of module `types` is not taken apart into flags
    return made


def _strict_int(_: Any, tokens: Sequence[Token]) -> int:
    """An integer; cyclopts would truncate 0.9 to 0."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise CoercionError(token=tokens[0], target_type=int) from None


StrictInt = Annotated[int, Parameter(converter=_strict_int)]
MaxLength = Annotated[int | None, Parameter(converter=_strict_int, validator=Number(gte=2))]
Workers = Annotated[int | None, Parameter(converter=_strict_int, validator=Number(gte=1))]
Truncate = Literal["keep-start", "skip"]
Flags: Any = _flags(SamplingConfig, "SamplingFlags", GROUP)
SamplingFlags: Any = Annotated[Flags, Parameter(name="*")]
NO_FLAGS = Flags()
_SelectionFlags: Any = _flags(DocumentSelectionConfig, "DocumentSelectionFlags", SELECTION_GROUP)
SelectionFlags: Any = Annotated[_SelectionFlags, Parameter(name="*")]
NO_SELECTION = _SelectionFlags()
Dtype = Annotated[DtypeOption, Parameter(help=ServeConfig.model_fields["dtype"].description)]
CacheDtype = Annotated[
    KVCacheDtype, Parameter(help=ServeConfig.model_fields["kv_cache_dtype"].description)
]
MemoryFraction = Annotated[
    float | None,
    Parameter(
        help=ServeConfig.model_fields["memory_fraction"].description,
        validator=Number(gt=0, lte=1),
    ),
]


def given_flags(flags: Any) -> dict[str, Any]:
    """The flags of sampling that were given; a `UsageError` if one is invalid."""
    changes = _given(flags)
    SamplingConfig.parse(changes)
    return changes


def parse_selection(flags: Any) -> DocumentSelectionConfig:
    """Which documents the flags choose; a `UsageError` if one is invalid."""
    return DocumentSelectionConfig.parse(_given(flags))


def _given(flags: Any) -> dict[str, Any]:
    values = dataclasses.asdict(flags)
    return {name: value for name, value in values.items() if value is not None}


def merged(defaults: SamplingConfig, changes: dict[str, Any]) -> SamplingConfig:
    """`defaults` with `changes` applied."""
    return SamplingConfig.parse(defaults.model_dump() | changes)


def parse_sizes(flag: str, text: str) -> list[int]:
    """Positive integers separated by commas, sorted; a `UsageError` that names `flag` otherwise.

    >>> parse_sizes("--batch-sizes", "32,8")
    [8, 32]
    """
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sizes = [0]
    if sizes[0] < 1:
        raise UsageError(f"{flag} should be numbers above zero, as in 8,16,32, not {text!r}.")
    return sizes
