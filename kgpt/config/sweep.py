"""How a sweep searches: `SweepConfig`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kgpt.config.section import Section

Direction = Literal["minimize", "maximize"]
DEFAULT_TRIALS = 20


class SweepConfig(Section):
    """The options of `kgpt sweep`."""

    trials: int | None = Field(
        None,
        ge=1,
        description=f"Number of trials; {DEFAULT_TRIALS} when not given, and with the grid sampler "
        "all points of the grid.",
    )
    sampler: Literal["tpe", "random", "grid"] = Field(
        "tpe",
        description="How values are chosen: by the tree-structured Parzen estimator, which learns "
        "from the trials before; at random; or all combinations.",
    )
    pruner: Literal["none", "halving"] = Field(
        "none",
        description="halving: successive halving, which pauses all trials after a few steps and "
        "goes on with the best alone.",
    )
    reduction_factor: int = Field(
        3, ge=2, description="With halving, one trial in so many goes on, for so many times longer."
    )
    min_steps: int | None = Field(
        None,
        ge=1,
        description="With halving, steps of every trial; when not given, as few as leave one trial "
        "for all of train.max_steps.",
    )
    metric: str = Field(
        "val_loss",
        description="The metric that is optimized, a key of metrics.jsonl; of a trial its best "
        "value counts.",
    )
    direction: Direction = Field("minimize", description="Whether lower or higher is better.")
    workers: int = Field(1, ge=1, description="Trials that are trained at a time, in processes.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the sampler.")
