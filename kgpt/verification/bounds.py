"""How far a place may be from the reference."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """The bounds of a precision.

    Attributes:
        logits: greatest difference of a logit, as a share of the reference's largest.
        bits_per_byte: greatest difference, as a share of the reference's.
    """

    logits: float
    bits_per_byte: float


# float32 is rounding alone; the others are what the precision may cost a trained model.
BOUNDS = {
    "float32": Bounds(logits=1e-4, bits_per_byte=1e-4),
    "bfloat16": Bounds(logits=0.03, bits_per_byte=0.01),
    "int8": Bounds(logits=0.15, bits_per_byte=0.02),
    "int4": Bounds(logits=0.5, bits_per_byte=0.1),
}
