"""Random JSON schemas whose texts are short, of every kind that structured output supports."""

import random
import string

PATTERNS = (
    "^[a-z]{1,4}$", r"^\d{2,3}-\w{1,2}$", "^(ab|cd|[x-z]){1,3}$", "[0-9]{2}", "^é?[^a-z]{1,2}$",
)  # fmt: skip
FORMATS = ("date", "uuid", "ipv4")
VALUES = (None, True, 0, -12, 1.5, "", "a", 'quo"te\\', "é😀", [1, "x"], {"k": None}, [])


def random_schema(seed):
    """A JSON schema; equal seeds give equal schemas."""
    noise = random.Random(seed)
    schema = _schema(noise, depth=3)
    if noise.random() < 0.3:
        schema = {
            "$defs": {"shared": schema},
            "type": "array",
            "items": {"$ref": "#/$defs/shared"},
            "maxItems": 2,
        }
    return schema


def _schema(noise, depth):
    simple = [_string, _integer, _number, _enum, _const, _null, _several_types]
    nested = [_object, _object, _array, _tuple, _any_of, _one_of, _all_of, _pattern_properties]
    return noise.choice(simple + nested * 2 if depth else simple)(noise, depth - 1)


def _string(noise, depth):
    kind = noise.randrange(4)
    if kind == 0:
        return {"type": "string", "pattern": noise.choice(PATTERNS), "maxLength": 6}
    if kind == 1:
        return {"type": "string", "format": noise.choice(FORMATS)}
    shortest = noise.randrange(3)
    return {"type": "string", "minLength": shortest, "maxLength": shortest + noise.randrange(4)}


def _integer(noise, depth):
    low = noise.randrange(-200, 200)
    schema = {"type": "integer", "minimum": low, "maximum": low + noise.randrange(1, 3000)}
    if noise.random() < 0.3:
        return schema | {"multipleOf": noise.choice((2, 3, 7)), "maximum": low + 500}
    if noise.random() < 0.3:
        return {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + 9}
    return schema


def _number(noise, depth):
    low = noise.choice((-3, -0.5, 0, 0.25, 17))
    schema = {"type": "number", "minimum": low, "maximum": low + noise.choice((0.5, 2, 30))}
    return schema | ({"multipleOf": 0.25} if noise.random() < 0.7 else {})


def _enum(noise, depth):
    return {"enum": noise.sample(VALUES, noise.randrange(1, 5))}


def _const(noise, depth):
    return {"const": noise.choice(VALUES)}


def _null(noise, depth):
    return {"type": noise.choice(("null", "boolean"))}


def _several_types(noise, depth):
    return {"type": ["string", "null", "boolean"], "maxLength": 2}


def _names(noise, count):
    return noise.sample([*string.ascii_lowercase[:8], "a b", "é", 'q"', "$ref-like"], count)


def _object(noise, depth):
    names = _names(noise, noise.randrange(0, 4))
    required = [name for name in names if noise.random() < 0.6]
    schema = {"type": "object", "additionalProperties": False}
    schema["properties"] = {name: _schema(noise, depth) for name in names}
    return schema | ({"required": required} if required or noise.random() < 0.5 else {})


def _pattern_properties(noise, depth):
    return {
        "type": "object",
        "patternProperties": {"^[a-z]{1,2}$": _schema(noise, 0)},
        "additionalProperties": False,
        "maxProperties": 2,
    }


def _array(noise, depth):
    fewest = noise.randrange(3)
    return {
        "type": "array",
        "items": _schema(noise, min(depth, 1)),
        "minItems": fewest,
        "maxItems": fewest + noise.randrange(3),
    }


def _tuple(noise, depth):
    parts = [_schema(noise, min(depth, 1)) for _ in range(noise.randrange(1, 3))]
    return {"type": "array", "prefixItems": parts, "items": False, "minItems": 1}


def _any_of(noise, depth):
    return {"anyOf": [_schema(noise, depth) for _ in range(noise.randrange(1, 4))]}


def _one_of(noise, depth):
    kinds = ["circle", "square"]
    return {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, "size": _schema(noise, 0)},
                "required": ["kind", "size"],
                "additionalProperties": False,
            }
            for kind in kinds
        ]
    }


def _all_of(noise, depth):
    first, second = _names(noise, 2)
    parts = [
        {"type": "object", "properties": {name: _schema(noise, 0)}, "required": [name]}
        for name in (first, second)
    ]
    whole = {"properties": {first: {}, second: {}}, "additionalProperties": False}
    return {"allOf": [*parts, whole]}
