"""Chat templates: Jinja that came with a model, rendered where it can do nothing but write text.

The rules are those of `transformers`, so that a template gives the same text here as there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from kgpt.errors import UsageError

LONGEST_REPEAT = 100_000  # as often as a template may repeat a string or list


class Template:
    """A chat template.

    Args:
        source: Jinja.
        tokens: special tokens by role, such as {"bos_token": "<s>"}, which the template may write.
    """

    def __init__(self, source: str, tokens: Mapping[str, str]):
        self._tokens = dict(tokens)
        try:
            self._template = _Sandbox().from_string(source)
        except (jinja2.TemplateError, SyntaxError, RecursionError, ValueError) as error:
            raise UsageError(f"The model's chat template is no valid Jinja: {error}.") from None

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False
    ) -> str:
        """The conversation as text; `add_generation_prompt` opens the assistant's next turn.

        Raises `UsageError` if the template refuses the messages, or tries what it may not do.
        """
        values = {"messages": [dict(message) for message in messages], "tools": None,
                  "documents": None, "add_generation_prompt": add_generation_prompt}  # fmt: skip
        try:
            return self._template.render(**values, **self._tokens)
        except SecurityError as error:
            raise UsageError(
                f"The model's chat template tried what a template may not do: {error}."
            ) from None
        except jinja2.TemplateError as error:
            reason = str(error).rstrip(".")
            raise UsageError(f"The model's chat template refused the messages: {reason}.") from None
        except Exception as error:  # a template can fail in as many ways as Python
            raise UsageError(
                f"The model's chat template failed on the messages: {error}."
            ) from None


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with the names that chat templates use, and a limit on growth."""

    intercepted_binops = frozenset(["*", "**"])

    def __init__(self):
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        self.filters["tojson"] = _to_json
        self.globals |= {
            "raise_exception": _raise,
            "strftime_now": lambda pattern: datetime.now().strftime(pattern),
        }

    def call_binop(self, context, operator, left, right):
        sizes = [abs(side) for side in (left, right) if isinstance(side, int)]
        grows = operator == "**" or not all(isinstance(side, int | float) for side in (left, right))
        if grows and sizes and max(sizes) > LONGEST_REPEAT:
            raise SecurityError(f"{operator} by {max(sizes)} is too much")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's words; it writes its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def _raise(message):
    raise jinja2.TemplateError(message)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """JSON without the HTML escapes of Jinja's own filter."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
