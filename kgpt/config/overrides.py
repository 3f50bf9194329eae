"""Command-line flags of the form `--section.key value` over a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from kgpt.config.loading import Config, parse_yaml
from kgpt.config.model import RopeScaling
from kgpt.config.section import did_you_mean
from kgpt.errors import UsageError


def parse_overrides(tokens: Sequence[str], flags: Iterable[str] = ()) -> dict[str, Any]:
    """Command-line options of the form --section.key value, as {"section.key": value}.

    `flags` are the command's other options, used for suggestions only.

    >>> parse_overrides(["--train.max-steps", "10", "--model.bias=false", "--train.tensorboard"])
    {'train.max_steps': '10', 'model.bias': 'false', 'train.tensorboard': True}
    """
    known = {f"{section}.{key}": field for section, key, field in options()}
    overrides: dict[str, Any] = {}
    pending = list(tokens)
    while pending:
        token = pending.pop(0)
        name, has_value, value = token.partition("=")
        key = name.removeprefix("--").replace("-", "_")
        if not token.startswith("--"):
            raise UsageError(f"{token!r} is not expected here; options look like --train.seed 1.")
        if key not in known:
            names = [f"--{option.replace('_', '-')}" for option in known] + list(flags)
            hint = did_you_mean(name, names) or "see `kgpt train --help` for all options."
            raise UsageError(f"Unknown option {name}; {hint}")
        if has_value:
            overrides[key] = _typed(value, known[key])
        elif pending and not pending[0].startswith("--"):
            overrides[key] = _typed(pending.pop(0), known[key])
        elif known[key].annotation is bool:
            overrides[key] = True
        else:
            raise UsageError(f"{name} needs a value.")
    return overrides


def options() -> Iterator[tuple[str, str, FieldInfo]]:
    """Section, key and field of every option of a run."""
    for section, owner in Config.model_fields.items():
        for key, field in owner.annotation.model_fields.items():  # type: ignore[union-attr]
            yield section, key, field


def _typed(value: str, field: FieldInfo) -> Any:
    """A command-line value: none, lists, dictionaries and `rope_scaling` are parsed as YAML."""
    if value.lower() in ("none", "null"):
        return None
    kinds = {get_origin(kind) for kind in (field.annotation, *get_args(field.annotation))}
    if list in kinds and not value.startswith("["):
        return [value] if get_origin(field.annotation) is list else value
    if not kinds & {list, dict} and field.annotation != RopeScaling | None:
        return value
    try:
        return parse_yaml(value)
    except ValueError:
        raise UsageError(f"{value} cannot be parsed; quote it as one argument, in YAML.") from None
