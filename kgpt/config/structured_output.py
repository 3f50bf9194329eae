"""The options of structured output: `StructuredOutputConfig`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from kgpt.config.section import Section

MAX_GRAMMAR_BYTES = 1 << 17  # of a JSON schema, regular expression or grammar
MAX_SCHEMA_DEPTH = 64  # levels of objects and arrays
MAX_CHOICES = 1024

Text = Annotated[str, Field(min_length=1, max_length=MAX_GRAMMAR_BYTES)]


class StructuredOutputConfig(Section):
    """What the generated text must look like: one of a JSON schema, a regular expression, a list
    of texts and a grammar."""

    json_schema: dict[str, Any] | None = Field(
        None, description="The text is JSON that this JSON schema describes."
    )
    json_object: bool = Field(False, description="The text is a JSON object.")
    regex: Text | None = Field(None, description="The whole text matches this regular expression.")
    choices: list[Text] | None = Field(
        None, min_length=1, max_length=MAX_CHOICES, description="The text is one of these."
    )
    grammar: Text | None = Field(
        None, description="The text follows this context-free grammar, in Lark's or GBNF's form."
    )
    whitespace_pattern: Text | None = Field(
        None, description="Regular expression of the whitespace in JSON; one optional space."
    )

    @classmethod
    def if_given(cls, values: dict[str, Any], where: str = "") -> Self | None:
        """The options among `values` that are not None; None if none of them asks for anything.

        Raises:
            UsageError: as `parse` does.
        """
        given = {
            name: value
            for name, value in values.items()
            if name in cls.model_fields and value is not None
        }
        if not given.get("json_object", True):
            del given["json_object"]
        return cls.parse(given, where) if given else None

    @field_validator("json_schema", mode="before")
    @classmethod
    def _read_schema(cls, schema: Any) -> Any:
        """A schema may be given as JSON text; its size is checked before its parts are."""
        if isinstance(schema, str):
            _check_size(len(schema.encode(errors="replace")))
            schema = _parse_json(schema)
        if schema is True:  # which allows any JSON
            return {}
        if schema is False:
            raise ValueError("the schema false allows no text; give a JSON object")
        if schema is None or isinstance(schema, dict):
            _check_depth(schema)
            _check_size(0 if schema is None else len(json.dumps(schema)))
            return schema
        raise ValueError("the schema must be a JSON object")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in KINDS if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            found = f"not {' and '.join(given)}" if given else "none was given"
            raise ValueError(f"give exactly one of {', '.join(KINDS)}; {found}")
        return self


KINDS = ("json_schema", "json_object", "regex", "choices", "grammar")


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the schema is not JSON: {error}") from None


def _check_size(size: int) -> None:
    if size > MAX_GRAMMAR_BYTES:
        raise ValueError(f"the schema has {size} bytes; at most {MAX_GRAMMAR_BYTES} are allowed")


def _check_depth(schema: Any) -> None:
    level, depth = [schema], 0
    while level:
        depth += 1
        if depth > MAX_SCHEMA_DEPTH:
            raise ValueError(f"the schema is nested more than {MAX_SCHEMA_DEPTH} levels deep")
        parts = [part.values() if isinstance(part, dict) else part for part in level]
        level = [x for part in parts for x in (part or ()) if isinstance(x, (dict, list))]
