"""Fields of requests that ask for structured output, under the names of OpenAI, vLLM and
llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, model_validator

from kgpt.config import StructuredOutputConfig
from kgpt.errors import UsageError
from kgpt.serving.body import Body
from kgpt.serving.compatibility import Neutral, refusal

Schema = dict[str, Any] | bool


class NamedSchema(Body):
    """`json_schema` of a `response_format`."""

    schema_: Schema = Field(True, alias="schema", description="The JSON schema; true: any JSON.")
    name: str | None = Field(None, description="Has no effect.")
    description: str | None = Field(None, description="Has no effect.")
    strict: bool | None = Field(None, description="Has no effect: the schema is always followed.")


class ResponseFormat(Body):
    """OpenAI's `response_format`; also llama.cpp's, and `text.format` of the Responses API."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = Field(None, description="With the type json_schema.")
    schema_: Schema | None = Field(None, alias="schema", description="In place of json_schema.")
    name: str | None = Field(None, description="Has no effect.")
    description: str | None = Field(None, description="Has no effect.")
    strict: bool | None = Field(None, description="Has no effect: the schema is always followed.")

    def options(self) -> dict[str, Any]:
        """The fields of `StructuredOutputConfig` that it asks for."""
        schema = self.json_schema.schema_ if self.json_schema else self.schema_
        if self.type == "text":
            return {}
        if self.type == "json_object" and schema is None:
            return {"json_object": True}
        if schema is None:
            raise refusal("json_schema", "the type json_schema needs a json_schema")
        return {"json_schema": schema}


class StructuredOutputs(Body):
    """vLLM's `structured_outputs`."""

    unsupported: ClassVar[Mapping[str, Neutral]] = {
        "disable_additional_properties": (False,),
        "disable_any_whitespace": (False,),
        "structural_tag": (),
    }
    ignored: ClassVar[frozenset[str]] = frozenset(("disable_fallback",))

    json_: Schema | str | None = Field(None, alias="json", description="A JSON schema.")
    json_object: bool | None = Field(None, description="Any JSON object.")
    regex: str | None = Field(None, description="A regular expression of the whole text.")
    choice: list[str] | None = Field(None, description="Texts, of which one is generated.")
    grammar: str | None = Field(None, description="A grammar in Lark's or GBNF's form.")
    whitespace_pattern: str | None = Field(None, description="Of the whitespace in JSON.")

    def options(self) -> dict[str, Any]:
        """The fields of `StructuredOutputConfig` that it asks for."""
        return {
            "json_schema": self.json_,
            "json_object": self.json_object or None,
            "regex": self.regex or None,
            "choices": self.choice or None,
            "grammar": self.grammar or None,
            "whitespace_pattern": self.whitespace_pattern,
        }


class StructuredOutputFields(Body):
    """A body whose text may have to follow a JSON schema, a regular expression or a grammar."""

    response_format: ResponseFormat | None = Field(
        None, description="OpenAI: text, json_object, or json_schema with a JSON schema."
    )
    structured_outputs: StructuredOutputs | None = Field(
        None, description="vLLM: one of json, json_object, regex, choice and grammar."
    )
    guided_json: Schema | str | None = Field(None, description="structured_outputs.json")
    guided_regex: str | None = Field(None, description="structured_outputs.regex")
    guided_choice: list[str] | None = Field(None, description="structured_outputs.choice")
    guided_grammar: str | None = Field(None, description="structured_outputs.grammar")
    guided_whitespace_pattern: str | None = Field(
        None, description="structured_outputs.whitespace_pattern"
    )
    json_schema: Schema | None = Field(None, description="llama.cpp: a JSON schema.")
    grammar: str | None = Field(None, description="llama.cpp: a grammar in GBNF's or Lark's form.")

    _structured_output: StructuredOutputConfig | None = PrivateAttr(None)

    @property
    def structured_output(self) -> StructuredOutputConfig | None:
        """What the text must follow; None for free text."""
        return self._structured_output

    @model_validator(mode="after")
    def _read_structured_output(self) -> StructuredOutputFields:
        asked = {name: options for name, options in self._asked() if options}
        if len(asked) > 1:
            names = sorted(asked)
            raise refusal(names[0], f"{' and '.join(names)} exclude each other; give one of them")
        for name, options in asked.items():
            if self.guided_whitespace_pattern is not None:
                options.setdefault("whitespace_pattern", self.guided_whitespace_pattern)
            try:
                self._structured_output = StructuredOutputConfig.if_given(options, name)
            except UsageError as error:
                raise refusal(name, str(error).removesuffix(".")) from None
        return self

    def _asked(self) -> list[tuple[str, dict[str, Any]]]:
        """The fields of `StructuredOutputConfig` that each field of the request asks for."""
        outputs = self.structured_outputs.options() if self.structured_outputs else {}
        given = {
            "structured_outputs": outputs,
            "response_format": self.response_format.options() if self.response_format else {},
            "guided_json": {"json_schema": None if self.guided_json == "" else self.guided_json},
            "guided_regex": {"regex": self.guided_regex or None},
            "guided_choice": {"choices": self.guided_choice or None},
            "guided_grammar": {"grammar": self.guided_grammar or None},
            "json_schema": {"json_schema": self.json_schema},
            "grammar": {"grammar": self.grammar or None},
        }
        return [
            (name, {key: value for key, value in options.items() if value is not None})
            for name, options in given.items()
        ]
