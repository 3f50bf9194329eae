"""What all request bodies share: how unknown, unsupported and sampling fields are treated.

Null is absent. A field that has no effect, or that kgpt does not know, is ignored and named in the
response; one that kgpt knows and cannot honour is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self

from annotated_types import MaxLen
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator
from pydantic.fields import FieldInfo

from kgpt.config import SamplingConfig, did_you_mean
from kgpt.serving import compatibility
from kgpt.serving.compatibility import Neutral, has_no_effect, refusal
from kgpt.serving.ignored_fields import RequestFields, current_request

MAX_FIELDS = 64  # of one object


def max_items(limit: int) -> BeforeValidator:
    """Reject a longer list or object before its items are validated (and reported)."""

    def check(value: Any) -> Any:
        if isinstance(value, (list, dict)) and len(value) > limit:
            raise ValueError(f"there are {len(value)} items; at most {limit} are allowed")
        return value

    return BeforeValidator(check)


class Body(BaseModel):
    """A request body, or an object within one.

    Attributes:
        endpoint: where the body is sent; None for an object within a body.
        sampling_field: the field that holds the sampling options, if they are in one.
        unsupported: known fields that cannot be honoured, with their values without effect.
        ignored: known fields that have no effect.
    """

    model_config = ConfigDict(extra="allow")

    endpoint: ClassVar[str | None] = None
    sampling_field: ClassVar[str | None] = None
    unsupported: ClassVar[Mapping[str, Neutral]] = {}
    ignored: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _check_fields(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if len(values) > MAX_FIELDS:
            raise ValueError(
                f"the object has too many fields: {len(values)}; at most {MAX_FIELDS} are allowed"
            )
        values = cls.translate({name: v for name, v in values.items() if v is not None})
        accepted = cls.accepted()
        for name in values:
            if name not in accepted:
                cls._check_extra(name, values)
        return values

    @classmethod
    def accepted(cls) -> set[str]:
        """The names of the fields, as clients send them."""
        return {field.alias or name for name, field in cls.model_fields.items()}

    @classmethod
    def translate(cls, values: dict[str, Any]) -> dict[str, Any]:
        """`values` in kgpt's own terms, before they are validated."""
        return values

    @classmethod
    def _check_extra(cls, name: str, values: dict[str, Any]) -> None:
        """Refuse a field that is known and has an effect; with `--strict` an unknown one too."""
        if name in cls.unsupported:
            if not has_no_effect(name, values, cls.unsupported[name]):
                remedy = compatibility.REMEDIES.get(name, "leave it out")
                raise refusal(name, f"{name} is not supported; {remedy}")
        elif name not in cls.ignored:
            cls._check_unknown(name, values[name])

    @classmethod
    def _check_unknown(cls, name: str, value: Any) -> None:
        if cls.endpoint and value is not False and value not in ("", [], {}):
            if cls.sampling_field and name in SamplingConfig.model_fields:
                raise refusal(name, f"{name} belongs in {cls.sampling_field}")
            if other := next((b.endpoint for b in bodies() if name in b.accepted()), None):
                raise refusal(name, f"{name} is a field of {other}, not of {cls.endpoint}")
        if current_request.get(RequestFields()).strict:
            hint = did_you_mean(name, cls.accepted()) or "GET /docs lists the fields."
            raise refusal(name, f"Unknown field {name[:100]!r}; {hint.rstrip('.')}")

    @model_validator(mode="after")
    def _record_ignored(self) -> Self:
        """Of nested bodies the outermost is validated last, so its record is the whole one."""
        if fields := current_request.get(None):
            fields.ignored = tuple(self.ignored_paths())
        return self

    def ignored_paths(self, prefix: str = "") -> Iterator[str]:
        """Paths of the ignored fields, such as `user` and `messages.0.annotations`."""
        yield from (prefix + name for name in self.model_extra or ())
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Body):
                yield from value.ignored_paths(f"{prefix}{name}.")
            elif isinstance(value, list) and value and isinstance(value[0], Body):
                for index, item in enumerate(value):
                    yield from item.ignored_paths(f"{prefix}{name}.{index}.")


def bodies(of: type[Body] = Body) -> Iterator[type[Body]]:
    """All classes of bodies that are sent to an endpoint."""
    for body in of.__subclasses__():
        if "endpoint" in vars(body):
            yield body
        yield from bodies(body)


def field_names(of: type[Body] = Body) -> frozenset[str]:
    """The names of all fields of all bodies and of the objects within them."""
    below = (field_names(body) for body in of.__subclasses__())
    return frozenset(of.accepted()).union(*below)


def known_fields(of: type[Body] = Body) -> frozenset[str]:
    """The names of all fields that may be ignored although kgpt knows them."""
    below = (known_fields(body) for body in of.__subclasses__())
    return frozenset(of.unsupported).union(of.ignored, *below)


class SamplingBody(Body):
    """A body with sampling fields."""

    unsupported: ClassVar[Mapping[str, Neutral]] = {
        **compatibility.UNSUPPORTED,
        **compatibility.STRUCTURED_OUTPUT,
    }
    ignored: ClassVar[frozenset[str]] = compatibility.IGNORED

    @classmethod
    def translate(cls, values: dict[str, Any]) -> dict[str, Any]:
        return compatibility.usual_values(compatibility.renamed(values))

    def sampling(self) -> dict[str, Any]:
        """The sampling fields that were given and are not null."""
        given = {
            name: value
            for name in SamplingConfig.model_fields
            if (value := getattr(self, name)) is not None
        }
        if isinstance(given.get("stop"), str):
            given["stop"] = [given["stop"]]
        return given


def _optional(name: str, field: FieldInfo) -> tuple[Any, Any]:
    """An optional sampling field. `stop` may be a single string, as in the OpenAI API."""
    limits = [max_items(bound.max_length) for bound in field.metadata if isinstance(bound, MaxLen)]
    bounded: Any = Annotated[(field.annotation, Field(), *field.metadata, *limits)]
    allowed = str | bounded | None if name == "stop" else bounded | None
    return allowed, Field(None, description=field.description)


# Every field of `SamplingConfig`, each optional.
SamplingFields: Any = create_model(
    "SamplingFields",
    __base__=SamplingBody,
    **{name: _optional(name, field) for name, field in SamplingConfig.model_fields.items()},  # type: ignore[call-overload]
)
