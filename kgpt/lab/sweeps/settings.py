"""What a sweep is started with, kept in its sweep.yaml, so that it can be resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kgpt.config import PREFERENCE_OBJECTIVES, Config, SweepConfig, config_changes, read_yaml
from kgpt.config.sweep import DEFAULT_TRIALS
from kgpt.data.shards import TokenDataset
from kgpt.errors import RunError, UsageError
from kgpt.files import write_text
from kgpt.lab.sweeps.halving import make_rungs
from kgpt.lab.sweeps.space import Space

FILE = "sweep.yaml"
FIXED_WITH_HALVING = ("train.max_steps", "train.eval_every", "train.log_every")


@dataclass(frozen=True)
class SweepSettings:
    """What all trials have in common, what is varied, and how.

    Attributes:
        config: of a trial, before the values of the sweep are set.
        space: the domains as they were given, by option.
        options: how the sweep searches.
    """

    config: Config
    space: Mapping[str, Any]
    options: SweepConfig

    def check(self) -> None:
        """Raise `UsageError` if the settings do not fit each other, `DataError` without data."""
        space, options, train = Space.parse(self.space), self.options, self.config.train
        if "data.dir" not in self.space:
            self.config.data.check_named()
        if self.config.data.dir and self.config.finetune.objective not in PREFERENCE_OBJECTIVES:
            TokenDataset(self.config.data.dir)
        if options.metric.startswith("val_") and not train.eval_every:
            raise UsageError(
                f"The metric is {options.metric}, but train.eval_every is 0: set it, or choose "
                "another --metric."
            )
        if options.sampler == "grid" and options.trials not in (None, len(space.grid())):
            raise UsageError(f"The grid has {len(space.grid())} points; leave --trials out.")
        varied = [key for key in FIXED_WITH_HALVING if key in self.space]
        if options.pruner == "halving" and varied:
            raise UsageError(
                f"With --pruner halving {varied[0]} is the same in all trials; leave it out of the "
                "space."
            )
        if options.pruner == "halving" and len(self.rungs) == 1:
            raise UsageError(
                f"With {self.trials} trials of {train.max_steps} steps there is no step to compare "
                "them at before the last: lower train.eval_every (for other metrics, "
                "train.log_every), or have more trials."
            )

    @property
    def trials(self) -> int:
        """How many there are in all."""
        if self.options.sampler == "grid":
            return len(Space.parse(self.space).grid())
        return self.options.trials or DEFAULT_TRIALS

    @property
    def rungs(self) -> list[int]:
        """The steps at which trials are compared, the last being that of all steps."""
        options, train = self.options, self.config.train
        if options.pruner == "none":
            return [train.max_steps]
        every = train.eval_every if options.metric.startswith("val_") else train.log_every
        return make_rungs(
            train.max_steps, self.trials, options.reduction_factor, every, options.min_steps
        )

    def write(self, folder: Path) -> None:
        """Write sweep.yaml."""
        values = {
            "sweep": self.options.model_dump(mode="json"),
            "space": dict(self.space),
            "config": self.config.model_dump(mode="json"),
        }
        write_text(folder / FILE, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    @classmethod
    def read(cls, folder: Path) -> SweepSettings:
        """The settings of the sweep in a folder; raises `RunError` if there is none."""
        if not (folder / FILE).is_file():
            raise RunError(f"There is no sweep {folder.name} to resume; name its configuration.")
        values = read_yaml(folder / FILE, sections=False)
        try:
            config, space, options = values["config"], values["space"], values["sweep"]
        except KeyError as error:
            raise RunError(f"{folder / FILE} lacks {error}, so it cannot be resumed.") from None
        return cls(Config.parse(config), space, SweepConfig.parse(options))

    def resumed_as(self, now: SweepSettings, name: str) -> SweepSettings:
        """These settings, with what may change of those that the sweep is resumed with.

        The number of trials may grow, where it does not decide how the first ones are trained.
        Suggestions are for as many workers as at first.

        Raises `UsageError` if others differ.
        """
        changes = list(config_changes(self.config, now.config))
        changes += ["the space"] * (dict(self.space) != dict(now.space))
        old, new = self.options.model_dump(), now.options.model_dump()
        may_grow = self.options.pruner == "none" and self.options.sampler != "grid"
        free = ("workers", "trials") if may_grow and now.trials >= self.trials else ("workers",)
        changes += [key for key in old if old[key] != new[key] and key not in free]
        if changes:
            raise UsageError(
                f"The sweep {name} exists, with another value of {changes[0]}; give another "
                f"--name, or go on with `kgpt sweep --name {name} --resume`."
            )
        trials = now.options.trials if may_grow else self.options.trials
        options = self.options.model_copy(update={"trials": trials})
        return SweepSettings(self.config, self.space, options)
