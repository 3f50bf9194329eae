"""What a sweep varies: options with their ranges or values.

train:
  learning_rate: 1e-4..1e-2:log      # a range: uniform, or in the logarithm with :log
  batch_size: [8, 16, 32]            # values
  warmup_steps: 0..200:50            # a range in steps of 50
  optimizer: adamw,muon
  beta_2: {values: [0.95, 0.99], when: {train.optimizer: adamw}}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from kgpt.config import did_you_mean, options
from kgpt.errors import UsageError

NUMBER = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})(?::(log|{NUMBER}))?")
FORMS = "a range such as 1e-4..1e-2:log or 2..8, or values such as 8,16,32"
Value = bool | int | float | str | None
Params = dict[str, Value]


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included.

    Attributes:
        log: uniform in the logarithm.
        step: between two values; None for any value, or every integer.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    is_int: bool = False


@dataclass(frozen=True)
class Parameter:
    """An option that a sweep varies.

    Attributes:
        key: such as train.learning_rate.
        domain: a range, or a tuple of values.
        when: the values of other parameters with which it is set; it is left as it is with others.
    """

    key: str
    domain: Range | tuple[Value, ...]
    when: tuple[tuple[str, tuple[Value, ...]], ...] = ()

    def is_set(self, params: Mapping[str, Value]) -> bool:
        """Whether it is set beside the parameters before it."""
        return all(key in params and params[key] in values for key, values in self.when)


@dataclass(frozen=True)
class Space:
    """The parameters of a sweep, those that others depend on before these."""

    parameters: tuple[Parameter, ...]

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Space:
        """The space of {"section.key": domain}, as in a file or on the command line.

        Raises `UsageError` for an unknown option, or a domain that the option does not allow.

        >>> space = Space.parse({"train.batch_size": "8,16", "model.num_layers": "2..4"})
        >>> [parameter.domain for parameter in space.parameters]
        [(8, 16), Range(low=2, high=4, log=False, step=None, is_int=True)]
        """
        if not values:
            raise UsageError("The space is empty; name an option, as in --space.train.seed 1,2.")
        known = {f"{section}.{key}": field for section, key, field in options()}
        parameters: dict[str, Parameter] = {}
        for key, value in values.items():
            if key not in known:
                hint = did_you_mean(key, known) or "see `kgpt train --help` for all options."
                raise UsageError(f"The space has the unknown option {key}; {hint}")
            parameters[key] = _parameter(key, value, known[key], parameters)
        return cls(tuple(parameters.values()))

    def grid(self) -> list[Params]:
        """All combinations, the last parameter changing the fastest.

        Raises `UsageError` for a range without steps.
        """
        points = {parameter.key: _points(parameter) for parameter in self.parameters}

        def combine(params: Params, rest: tuple[Parameter, ...]) -> Iterator[Params]:
            if not rest:
                yield params
            elif rest[0].is_set(params):
                for value in points[rest[0].key]:
                    yield from combine(params | {rest[0].key: value}, rest[1:])
            else:
                yield from combine(params, rest[1:])

        return list(combine({}, self.parameters))


def _parameter(
    key: str, value: Any, field: FieldInfo, before: Mapping[str, Parameter]
) -> Parameter:
    if not isinstance(value, dict):
        return Parameter(key, _domain(key, value, field))
    domains = [name for name in ("range", "values") if name in value]
    if len(domains) != 1 or set(value) - {*domains, "when"}:
        raise UsageError(f"{key} in the space has either range or values, and when if need be.")
    when = value.get("when") or {}
    if not isinstance(when, dict):
        raise UsageError(f"when of {key} in the space is like {{train.optimizer: adamw}}.")
    conditions = tuple((other, _condition(key, other, when[other], before)) for other in when)
    return Parameter(key, _domain(key, value[domains[0]], field), conditions)


def _condition(
    key: str, other: str, values: Any, before: Mapping[str, Parameter]
) -> tuple[Value, ...]:
    """The values of the parameter `other` with which `key` is set."""
    domain = before[other].domain if other in before else None
    if not isinstance(domain, tuple):
        raise UsageError(
            f"{key} in the space depends on {other}, which must stand before it, with values."
        )
    wanted = tuple(values) if isinstance(values, list) else (values,)
    if unknown := [value for value in wanted if value not in domain]:
        known = ", ".join(map(str, domain))
        raise UsageError(
            f"{key} in the space depends on {other} {unknown[0]}, but its values are {known}."
        )
    return wanted


def _domain(key: str, value: Any, field: FieldInfo) -> Range | tuple[Value, ...]:
    if isinstance(value, str) and ".." in value:
        return _range(key, value, field)
    given = value.split(",") if isinstance(value, str) else value
    given = given if isinstance(given, list) else [given]
    values = tuple(_valid(key, one, field) for one in given)
    if not values or len({repr(one) for one in values}) < len(values):
        raise UsageError(f"{key} in the space has a value twice, or none; it takes {FORMS}.")
    return values


def _range(key: str, text: str, field: FieldInfo) -> Range:
    match = RANGE.fullmatch(text)
    kinds = {field.annotation, *get_args(field.annotation)}
    if match is None or not kinds & {int, float}:
        raise UsageError(
            f"{key} in the space cannot be {text!r}; "
            + (
                f"it takes {FORMS}."
                if kinds & {int, float}
                else "it is no number: list its values."
            )
        )
    low, high = (_valid(key, _number(match[i]), field) for i in (1, 2))
    assert isinstance(low, int | float) and isinstance(high, int | float)
    is_log, step = match[3] == "log", None if match[3] in (None, "log") else _number(match[3])
    is_int = float not in kinds
    if low >= high:
        raise UsageError(f"{key} in the space begins at {match[1]}, which is not below {match[2]}.")
    if is_log and low <= 0:
        raise UsageError(f"{key} in the space begins at {match[1]}; with :log it is above 0.")
    if step is not None and (not 0 < step <= high - low or (is_int and step % 1)):
        raise UsageError(f"The step {match[3]} of {key} in the space does not fit {text!r}.")
    return Range(low, high, is_log, step, is_int)


def _number(text: str) -> int | float:
    """A number, an integer if it is whole.

    >>> _number("1e3"), _number("0.5")
    (1000, 0.5)
    """
    value = float(text)
    return int(value) if value.is_integer() else value


def _valid(key: str, value: Any, field: FieldInfo) -> Value:
    """A value as the option has it; raises `UsageError` if the option does not allow it."""
    if isinstance(value, str):
        value = value.strip()
        value = None if value.lower() in ("none", "null") else value
    try:
        kind: Any = Annotated[field.annotation, field]
        found: Any = TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Input ")
        raise UsageError(f"{key} in the space: {value!r} {reason}.") from None
    if not isinstance(found, Value):
        raise UsageError(f"{key} cannot be in the space: it is neither a number nor a word.")
    return found


def _points(parameter: Parameter) -> list[Value]:
    """The values of a parameter on the grid."""
    domain = parameter.domain
    if isinstance(domain, tuple):
        return list(domain)
    if domain.log or (domain.step is None and not domain.is_int):
        raise UsageError(
            f"The grid needs the values of {parameter.key}, or a range with steps such as "
            "0.1..0.5:0.1."
        )
    step = domain.step or 1
    count = int((domain.high - domain.low) / step * (1 + 1e-12) + 1e-9) + 1
    values = [domain.low + i * step for i in range(count)]
    return [int(value) if domain.is_int else round(value, 12) for value in values]
