"""`Section`, the base of all configuration models, and their error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from kgpt.config.renamed_keys import current_name
from kgpt.errors import UsageError

# A list of texts; one text alone is a list of one.
TextList = Annotated[list[str], BeforeValidator(lambda x: [x] if isinstance(x, str) else x)]


class Section(BaseModel):
    """A group of options: unknown keys are errors, assignments are validated."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: dict[str, Any], where: str = "") -> Self:
        """Validate `values`; raise a `UsageError` that names the key if they are invalid.

        >>> from kgpt.config import TrainConfig
        >>> TrainConfig.parse({"batch_sise": 4}, "train")
        Traceback (most recent call last):
            ...
        kgpt.errors.UsageError: Unknown key train.batch_sise; did you mean train.batch_size?
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UsageError(sentence(error, cls, where)) from None


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """'did you mean x?' for the current name of `name` or the closest of `known`, or ''."""
    known = list(known)
    nearest = [current_name(name)] if current_name(name) in known else []
    nearest = nearest or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {prefix}{nearest[0]}?" if nearest else ""


def sentence(error: ValidationError, model: type[BaseModel], where: str = "") -> str:
    """The first of the errors as one sentence that names the key."""
    failure = error.errors()[0]
    path = [str(part) for part in failure["loc"] if part != "[key]"]
    key = ".".join(([where] if where else []) + path)
    if failure["type"] == "extra_forbidden":
        owner: Any = model
        for part in path[:-1]:
            annotation = owner.model_fields[part].annotation
            owner = next(iter(get_args(annotation)), annotation)
        prefix = key[: len(key) - len(path[-1])]
        hint = did_you_mean(path[-1], owner.model_fields, prefix)
        keys = ", ".join(owner.model_fields)
        return f"Unknown key {key}; " + (hint or f"the keys are {keys}.")
    reason = failure["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if failure["type"] == "value_error":
        return f"{key}: {reason}." if key else f"{reason}."
    given = repr(failure["input"])
    given = given if len(given) <= 100 else f"{given[:97]}..."
    return f"{key} {reason}, not {given}."
