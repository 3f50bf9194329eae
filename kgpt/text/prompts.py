"""Prompt templates: YAML files with fields to fill in.

    description: A piece of code.
    fields:
      language: {description: Programming language., default: Python}
      description: {description: What the code does.}
    prompt: |
      # Language: {language}
      # {description}

Those that come with kgpt are found by name, and so are a user's own, in `prompts/` of kgpt's
configuration folder; any other is given as a file.
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

PLACE = re.compile(r"\{(\w+)\}")


class PromptField(Section):
    """A place in a template."""

    description: str = Field("", description="What belongs here.")
    default: str | None = Field(None, description="What stands here if nothing is given.")


class PromptTemplate(Section):
    """A prompt with places to fill in."""

    description: str = Field("", description="What the prompt asks for.")
    fields: dict[str, PromptField] = Field({}, description="The places, by name.")
    prompt: str = Field(description="The text, with {name} at each place.")

    def fill(self, values: dict[str, str]) -> str:
        """The prompt with `values` in their places; a missing one is a `UsageError`."""
        names = set(PLACE.findall(self.prompt)) | set(self.fields)
        for name in values:
            if name not in names:
                hint = did_you_mean(name, names) or f"it has {', '.join(sorted(names))}."
                raise UsageError(f"The template has no field {name!r}; {hint}")
        known = {name: field.default for name, field in self.fields.items()} | values
        missing = sorted(name for name in names if known.get(name) is None)
        if missing:
            raise UsageError(f"The template needs --field {missing[0]}=...")
        return PLACE.sub(lambda place: str(known[place[1]]), self.prompt)


def own_folder() -> Path:
    """Where a user's templates live."""
    return Path(platformdirs.user_config_dir("kgpt")) / "prompts"


def templates() -> dict[str, Path]:
    """Names and files of all templates; a user's own go before kgpt's."""
    shipped = Path(str(resources.files("kgpt_configs"))) / "prompts"
    folders = (shipped, own_folder())
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def load_template(source: str) -> PromptTemplate:
    """The template called `source`, or in the file `source`."""
    known = templates()
    path = known.get(source) or Path(source)
    if not path.is_file():
        hint = did_you_mean(source, known) or f"there are {', '.join(known)}."
        raise UsageError(f"No prompt template is called {source!r}; {hint}")
    return PromptTemplate.parse(read_yaml(path, sections=False), str(path))


def fill_template(source: str, fields: Sequence[str]) -> str:
    """The prompt of a template with fields given as name=value."""
    values = {}
    for field in fields:
        name, equals, value = field.partition("=")
        if not equals:
            raise UsageError(f"--field {field!r} should be name=value.")
        values[name] = value
    return load_template(source).fill(values)
