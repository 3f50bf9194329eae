"""Render a model's Jinja chat template in a sandbox.

Same filters, globals and extensions as `transformers`, and so the same text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.nodes import Node, Scope
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kgpt.errors import UsageError

MAX_REPEAT = 100_000  # largest factor of `*` on a string or list, and operand of `**`


class Template:
    """A compiled chat template.

    Args:
        source: Jinja.
        tokens: special tokens that the template can name, such as {"bos_token": "<s>"}.
    """

    def __init__(self, source: str, tokens: Mapping[str, str]):
        self._tokens = dict(tokens)
        sandbox = _Sandbox()
        try:
            self._template = sandbox.from_string(source)
            # Names that the template reads from outside, such as "enable_thinking".
            self.variables = frozenset(find_undeclared_variables(sandbox.parse(source)))
        except (jinja2.TemplateError, SyntaxError, RecursionError, ValueError) as error:
            raise UsageError(f"The model's chat template is not valid Jinja: {error}.") from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation as text.

        Args:
            add_generation_prompt: open the assistant's next turn.
            tools: functions that the model may call, as in the OpenAI API.
            variables: further variables of the template, such as {"enable_thinking": False}.

        Raises:
            UsageError: the template rejects the messages, fails or breaks the sandbox.
        """
        values = {"messages": [dict(message) for message in messages], "tools": tools or None,
                  "documents": None, "add_generation_prompt": add_generation_prompt}  # fmt: skip
        try:
            return self._template.render({**(variables or {}), **values, **self._tokens})
        except SecurityError as error:
            raise UsageError(f"The chat template uses what is not allowed: {error}.") from None
        except jinja2.TemplateError as error:
            reason = str(error).rstrip(".")
            raise UsageError(f"The model's chat template rejects the messages: {reason}.") from None
        except Exception as error:  # a template can raise anything
            raise UsageError(f"The model's chat template fails on the messages: {error}.") from None


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with the globals of chat templates and a limit on repetition."""

    intercepted_binops = frozenset(["*", "**"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        self.filters["tojson"] = _to_json
        self.globals |= {
            "raise_exception": _raise,
            "strftime_now": lambda pattern: datetime.now().strftime(pattern),
        }

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        sizes = [abs(side) for side in (left, right) if isinstance(side, int)]
        grows = operator == "**" or not all(isinstance(side, int | float) for side in (left, right))
        if grows and sizes and max(sizes) > MAX_REPEAT:
            raise SecurityError(f"{operator} by {max(sizes)} is too much")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's text; renders its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return Scope(body).set_lineno(line)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """JSON without the HTML escapes of Jinja's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)
