"""The seeds of completions: drawn if none is given, consecutive for several."""

from __future__ import annotations

import secrets

from kgpt.config import SamplingConfig


def with_seed(sampling: SamplingConfig) -> SamplingConfig:
    """`sampling` with a seed: a random one if it has none."""
    if sampling.seed is not None:
        return sampling
    return sampling.model_copy(update={"seed": secrets.randbelow(2**31)})


def seed_of(sampling: SamplingConfig, number: int) -> int:
    """The seed of one of several completions."""
    return ((sampling.seed or 0) + number) % 2**31
