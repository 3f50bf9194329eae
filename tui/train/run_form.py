"""The configuration being edited: a preset and the user's edits. No widgets here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from kgpt.config import Config, options, parse_overrides
from kgpt.errors import UsageError


@dataclass(frozen=True)
class FormField:
    """One option: its key, its declaration, and its values where they can be listed."""

    key: str
    declared: FieldInfo
    choices: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.key.split(".", 1)[1]

    @property
    def section(self) -> str:
        return self.key.split(".", 1)[0]

    @property
    def help(self) -> str:
        """The description with the bounds."""
        signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
        bounds = [
            f"{sign} {value:g}"
            for rule in self.declared.metadata
            for name, sign in signs.items()
            if (value := getattr(rule, name, None)) is not None
        ]
        described = self.declared.description or ""
        return f"{described} ({', '.join(bounds)})" if bounds else described

    def matches(self, words: list[str]) -> bool:
        text = f"{self.key} {self.help}".lower()
        return all(word in text for word in words)


def form_fields() -> list[FormField]:
    """Every option of kgpt, in the order of declaration."""
    return [FormField(f"{s}.{key}", field, _choices(field)) for s, key, field in options()]


class RunForm:
    """A preset with edits, both as text; `check` parses and validates them."""

    def __init__(self, preset: str = "") -> None:
        self.edits: dict[str, str] = {}
        self._preset = Config().model_dump()
        if preset:
            self.load(preset)

    def load(self, preset: str) -> None:
        """Start from another preset or YAML file; edits are kept, and so is a data set chosen."""
        edits = dict(self.edits)
        self._preset = Config.load(preset).model_dump()
        for key, text in edits.items():
            self.edit(key, text)

    def text(self, key: str) -> str:
        """The edited value of an option, else the preset's."""
        return self.edits.get(key, self.preset_text(key))

    def preset_text(self, key: str) -> str:
        """The preset's value of an option."""
        section, name = key.split(".", 1)
        return as_text(self._preset[section][name])

    def edit(self, key: str, text: str) -> None:
        """Edit an option; setting the preset's own value removes the edit."""
        self.edits[key] = text
        if text == self.preset_text(key):
            del self.edits[key]

    def check(self) -> tuple[Config | None, str, str]:
        """(configuration, "", "") if valid, else (None, key, message); key is "" if several options
        do not fit together."""
        values = {section: dict(options) for section, options in self._preset.items()}
        for key, text in self.edits.items():
            section, name = key.split(".", 1)
            try:
                values[section][name] = parse_overrides([f"--{key}={text or 'none'}"])[key]
            except Exception as error:
                return None, key, f"{key}: {error}" if str(error) else key
        try:
            return Config.parse(values), "", ""
        except UsageError as error:
            message = str(error)
            keys = [
                f.key
                for f in form_fields()
                if message.startswith((f"{f.key} ", f"{f.key}:", f"{f.key}."))
            ]
            return None, max(keys, key=len, default=""), message


def as_text(value: Any) -> str:
    """A value as text that parses to it.

    >>> as_text(None), as_text(0.001), as_text(["a"]), as_text(True)
    ('', '0.001', '["a"]', 'true')
    """
    if value is None:
        return ""
    if isinstance(value, (list, dict, bool)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _choices(field: FieldInfo) -> tuple[str, ...]:
    kinds = get_args(field.annotation)
    none = ("",) if NoneType in kinds or field.default is None else ()
    if field.annotation is bool or bool in kinds:
        return ("false", "true", *none)
    if any(get_origin(kind) is list for kind in kinds):
        return ()
    for kind in (field.annotation, *kinds):
        if get_origin(kind) is Literal:
            return (*map(str, get_args(kind)), *none)
    return ()
