"""Command-line flags generated from the fields of `StructuredOutputConfig`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from kgpt.config import StructuredOutputConfig
from kgpt.errors import UsageError

GROUP = Group("Structured output", sort_key=2)
KINDS: dict[str, Any] = {"json_object": bool, "choices": list[str]}  # the others are texts
NAMES = {"choices": "--choice"}  # a flag that may be given repeatedly
FILES = {"json_schema": "; a file or the schema itself", "grammar": "; a file or the grammar"}


def _flags() -> type:
    """A dataclass with the fields of `StructuredOutputConfig`; one that is not given is None."""
    fields: list[tuple[str, Any, Any]] = []
    for name, field in StructuredOutputConfig.model_fields.items():
        help_text = str(field.description).removesuffix(".") + FILES.get(name, "") + "."
        flag = Parameter(
            name=NAMES.get(name, "--" + name.replace("_", "-")),
            help=help_text,
            group=GROUP,
            negative=(),
            show_default=False,
        )
        kind: Any = KINDS.get(name, str)
        fields.append((name, Annotated[kind | None, flag], dataclasses.field(default=None)))
    made = dataclasses.make_dataclass("StructuredOutputFlags", fields, kw_only=True)
    made.__module__ = __name__  # a class of module `types` is not taken apart into flags
    return made


Flags: Any = _flags()
StructuredOutputFlags: Any = Annotated[Flags, Parameter(name="*")]
NO_FLAGS = Flags()


def given_structured_output(flags: Any) -> dict[str, Any]:
    """The flags that were given, files read; a `UsageError` if one is invalid."""
    values = {
        name: _read(name, value) if name in FILES else value
        for name, value in dataclasses.asdict(flags).items()
        if value is not None
    }
    StructuredOutputConfig.if_given(values)
    return values


def _read(name: str, given: str) -> str:
    """The content of a file, or the text itself where that cannot be the name of one."""
    if given.lstrip().startswith("{") or any(mark in given for mark in ("\n", "::=", "start:")):
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        flag = name.replace("_", "-")
        raise UsageError(f"--{flag} {given} cannot be read: {error}.") from None
