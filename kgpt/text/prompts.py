"""Prompt templates: YAML files with fields to fill in.

    description: A piece of code.
    fields:
      language: {description: Programming language., default: Python}
      description: {description: What the code does.}
    prompt: |
      # Language: {language}
      # {description}

Templates shipped with kgpt, and those in `prompts/` of the user's configuration folder, are found
by name; any other by its path.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import platformdirs
from pydantic import Field

from kgpt.config import Section, did_you_mean, read_yaml
from kgpt.errors import UsageError

FIELD_PATTERN = re.compile(r"\{(\w+)\}")


class PromptField(Section):
    """A field of a template."""

    description: str = Field("", description="What to fill in.")
    default: str | None = Field(None, description="Value if none is given.")


class PromptTemplate(Section):
    """A prompt with fields to fill in."""

    description: str = Field("", description="What the prompt asks for.")
    fields: dict[str, PromptField] = Field({}, description="The fields, by name.")
    prompt: str = Field(description="The text, with {name} for each field.")

    def fill(self, values: dict[str, str]) -> str:
        """The prompt with `values` filled in; raises `UsageError` if one is missing or unknown."""
        names = set(FIELD_PATTERN.findall(self.prompt)) | set(self.fields)
        for name in values:
            if name not in names:
                hint = did_you_mean(name, names) or f"it has {', '.join(sorted(names))}."
                raise UsageError(f"The template has no field {name!r}; {hint}")
        known = {name: field.default for name, field in self.fields.items()} | values
        missing = sorted(name for name in names if known.get(name) is None)
        if missing:
            raise UsageError(f"The template needs --field {missing[0]}=...")
        return FIELD_PATTERN.sub(lambda match: str(known[match[1]]), self.prompt)


def user_prompts_dir() -> Path:
    """Folder of the user's templates."""
    return Path(platformdirs.user_config_dir("kgpt")) / "prompts"


def templates() -> dict[str, Path]:
    """Paths of all templates by name; the user's take precedence over kgpt's."""
    shipped = Path(str(resources.files("kgpt_configs"))) / "prompts"
    folders = (shipped, user_prompts_dir())
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def load_template(source: str) -> PromptTemplate:
    """The template with the name or the path `source`."""
    known = templates()
    path = known.get(source) or Path(source)
    if not path.is_file():
        hint = did_you_mean(source, known) or f"there are {', '.join(known)}."
        raise UsageError(f"There is no prompt template {source!r}; {hint}")
    return PromptTemplate.parse(read_yaml(path, sections=False), str(path))


def fill_template(source: str, fields: Sequence[str]) -> str:
    """The prompt of a template, with fields given as name=value."""
    values = {}
    for field in fields:
        name, equals, value = field.partition("=")
        if not equals:
            raise UsageError(f"--field {field!r} should be name=value.")
        values[name] = value
    return load_template(source).fill(values)
