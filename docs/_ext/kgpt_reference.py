"""Directives that render the reference pages from the code, so that they cannot be out of date.

```{kgpt-options} TrainConfig     a configuration section as a table
```{kgpt-presets}                 the presets, from the first comment of each file
```{kgpt-commands}                every command of the command line with its flags
```{kgpt-endpoints}               every HTTP endpoint, and the fields of each request
```{kgpt-api}                     every public Python name
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Generated(SphinxDirective):
    """A directive whose content is Markdown that `markdown` returns."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        lines = self.markdown(*self.arguments).splitlines()
        node = nodes.section()
        node.document = self.state.document
        source = StringList(lines, source=f"<{self.name}>")
        self.state.nested_parse(source, 0, node, match_titles=1)
        return node.children

    def markdown(self, *arguments: str) -> str:
        raise NotImplementedError


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars within cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(c) for c in row) + " |" for row in lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def type_text(annotation: Any) -> str:
    """A type as a reader writes it: `float`, `int | None`, `"cosine" | "linear"`."""
    import typing

    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(repr(value) for value in typing.get_args(annotation))
    if typing.get_origin(annotation) is typing.Annotated:
        return type_text(typing.get_args(annotation)[0])
    if inspect.isclass(annotation) and not typing.get_args(annotation):
        return annotation.__name__
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) in (list, dict):
        inner = ", ".join(map(type_text, arguments))
        return f"{typing.get_origin(annotation).__name__}[{inner}]"
    if arguments:
        return " | ".join("None" if a is type(None) else type_text(a) for a in arguments)
    return str(annotation)


def bounds_text(field: Any) -> str:
    """The bounds of a pydantic field, such as `0 <= x < 1`."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(item, name)}"
        for item in field.metadata
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]
    return ", ".join(found)


def options_table(model: Any) -> str:
    """Every field of a pydantic model: type, bounds, default, description."""
    rows = []
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else f"`{default!r}`"
        kind = type_text(field.annotation)
        bounds = bounds_text(field)
        kind = f"`{kind}`" + (f" {bounds}" if bounds else "")
        rows.append([f"`{name}`", kind, shown, field.description or ""])
    return table(["option", "type", "default", "meaning"], rows)


class OptionsDirective(Generated):
    """The fields of one configuration section."""

    required_arguments = 1
    optional_arguments = 0

    def markdown(self, *arguments: str) -> str:
        import kgpt.config

        return options_table(getattr(kgpt.config, arguments[0]))


class PresetsDirective(Generated):
    """The presets with what the comment at the top of each file says."""

    def markdown(self, *arguments: str) -> str:
        from kgpt.config import presets

        rows = []
        for name, path in presets().items():
            lines = path.read_text(encoding="utf-8").splitlines()
            comment = []
            for line in lines:
                if not line.startswith("#"):
                    break
                comment.append(line.lstrip("# "))
            rows.append([f"`{name}`", " ".join(comment)])
        return table(["preset", "what it is"], rows)


class CommandsDirective(Generated):
    """Every command with its parameters."""

    def markdown(self, *arguments: str) -> str:
        from kgpt.cli import app

        return "\n".join(_commands(app, ["kgpt"]))


def _commands(app: Any, path: list[str]) -> Iterable[str]:
    for name in app:
        if name.startswith("-"):
            continue
        command = app[name]
        if any(not n.startswith("-") for n in command):
            yield from _commands(command, [*path, name])
            continue
        yield f"## `{' '.join([*path, name])}`\n"
        yield f"{command.help or ''}\n"
        arguments = command.assemble_argument_collection(parse_docstring=True)
        rows = [_parameter(argument) for argument in arguments if argument.show]
        if rows:
            yield table(["parameter", "default", "meaning"], rows)


def _parameter(argument: Any) -> list[str]:
    names = " ".join(f"`{name}`" for name in argument.names) or f"`{argument.name}`"
    default = argument.field_info.default
    shown = "" if default in (inspect.Parameter.empty, None) else f"`{default!r}`"
    return [names, shown, str(argument.parameter.help or "")]


class EndpointsDirective(Generated):
    """Every HTTP endpoint, and the fields of the request bodies."""

    def markdown(self, *arguments: str) -> str:
        from kgpt.config import ServeConfig
        from kgpt.serving.app import build_app
        from kgpt.serving.state import ServerState

        config = ServeConfig(runtime_lora_updating=True)  # with the endpoints that it adds
        described = build_app(ServerState("model", config, load=None)).openapi()
        rows = [
            [f"`{method.upper()} {path}`", operation.get("summary", "")]
            for path, methods in described["paths"].items()
            for method, operation in methods.items()
        ]
        parts = ["## Endpoints\n", table(["endpoint", "what it does"], rows)]
        for name, schema in described["components"]["schemas"].items():
            if "properties" in schema:
                fields = [
                    [f"`{field}`", str(part.get("description", ""))]
                    for field, part in schema["properties"].items()
                ]
                parts += [f"## {name}\n", table(["field", "meaning"], fields)]
        return "\n".join(parts)


class ApiDirective(Generated):
    """autodoc for each name in `kgpt.__all__`."""

    def markdown(self, *arguments: str) -> str:
        import kgpt
        from kgpt.model.pretrained import PretrainedModel

        parts = []
        for name in kgpt.__all__:
            if name.startswith("__"):
                continue
            value = getattr(kgpt, name)
            kind = "autoclass" if inspect.isclass(value) else "autofunction"
            target = f"{value.__module__}.{value.__qualname__}"
            if inspect.isclass(value) and issubclass(value, BaseModel):
                target += "(**options)"  # the options page lists them
            if name == "GPT":  # of which others are subclasses
                base = f"{PretrainedModel.__module__}.{PretrainedModel.__qualname__}"
                target += f"\n\n.. autoclass:: {base}"
            parts.append(f"## `kgpt.{name}`\n\n```{{eval-rst}}\n.. {kind}:: {target}\n```\n")
        return "\n".join(parts)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("kgpt-options", OptionsDirective)
    app.add_directive("kgpt-presets", PresetsDirective)
    app.add_directive("kgpt-commands", CommandsDirective)
    app.add_directive("kgpt-endpoints", EndpointsDirective)
    app.add_directive("kgpt-api", ApiDirective)
    return {"parallel_read_safe": True}
