"""What a sweep has found: its trials, the best of them, and which options mattered."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kgpt.config.sweep import Direction
from kgpt.errors import RunError
from kgpt.lab.sweeps.halving import ranked
from kgpt.lab.sweeps.settings import SweepSettings
from kgpt.lab.sweeps.space import Params, Space
from kgpt.lab.sweeps.study import FILE, SweepStudy
from kgpt.lab.sweeps.suggest import as_finished, load_optuna
from kgpt.lab.sweeps.trial import Trial, TrialState
from kgpt.runs import new_run

BETTER_SHARE = 0.5  # of the trials, which the importance sets apart from the others


@dataclass(frozen=True)
class TrialResult:
    """A trial, with the name of its run.

    Attributes:
        value: the best of the metric up to `step`; None if it has none.
        compared: the best of the metric up to the step at which all trials are compared.
        error: why it failed or was stopped.
    """

    number: int
    run: str
    state: TrialState
    params: Params
    step: int
    value: float | None
    compared: float | None
    error: str | None


@dataclass(frozen=True)
class SweepResult:
    """The results of a sweep, as far as it is.

    Attributes:
        space: the domains of the options, as they were given.
        total: the trials that there will be.
        trials: that have been begun, in order.
        best: the number of the best complete trial; None without any.
        best_config: the file of its configuration.
        importance: of each option for being in the better half of the trials, by the values that
            all trials have at `compared_at` steps: shares of 1, by PED-ANOVA (Watanabe et al. 2023,
            arXiv:2304.10255). Empty with less than 4 values.
        steps: that were trained in all.
        full_steps: that all trials would have taken without a pruner.
    """

    sweep: str
    metric: str
    direction: Direction
    sampler: str
    pruner: str
    seed: int
    space: dict[str, Any]
    total: int
    trials: list[TrialResult]
    best: int | None
    best_config: str | None
    importance: dict[str, float]
    compared_at: int
    steps: int
    full_steps: int

    @property
    def in_order(self) -> list[TrialResult]:
        """The best trial first: complete ones, then the others by how far they came."""
        sign = 1 if self.direction == "minimize" else -1

        def key(trial: TrialResult) -> tuple[bool, int, float, int]:
            value = float("inf") if trial.value is None else sign * trial.value
            return trial.state != "complete", -trial.step, value, trial.number

        return sorted(self.trials, key=key)

    def best_so_far(self) -> tuple[list[int], list[float]]:
        """The numbers of the complete trials, and the best value up to each."""
        complete = [trial for trial in self.trials if trial.state == "complete"]
        better = min if self.direction == "minimize" else max
        values = [trial.value for trial in complete if trial.value is not None]
        best = [better(values[: i + 1]) for i in range(len(values))]
        return [trial.number for trial in complete], best


def read_results(name: str) -> SweepResult:
    """The results of a sweep, also of one that is at work; raises `RunError` if there is none."""
    folder = new_run(name).path
    settings = SweepSettings.read(folder)
    if not (folder / FILE).is_file():
        raise RunError(f"The sweep {name} has not begun; start it with `kgpt sweep`.")
    options, space = settings.options, Space.parse(settings.space)
    trials = SweepStudy(folder, name, options.direction, space).trials()
    is_minimized = options.direction == "minimize"
    best = ranked([one for one in trials if one.state == "complete"], is_minimized)
    first = settings.rungs[0]
    return SweepResult(
        sweep=name,
        metric=options.metric,
        direction=options.direction,
        sampler=options.sampler,
        pruner=options.pruner,
        seed=options.seed,
        space=dict(settings.space),
        total=settings.trials,
        trials=[_result(name, trial, first) for trial in trials],
        best=best[0].number if best else None,
        best_config=str(folder / "best.yaml") if best else None,
        importance=importance(space, trials, options.direction, first),
        compared_at=first,
        steps=sum(trial.step for trial in trials),
        full_steps=settings.trials * settings.config.train.max_steps,
    )


def _result(name: str, trial: Trial, first: int) -> TrialResult:
    return TrialResult(
        trial.number, f"{name}-{trial.number:04d}", trial.state, trial.params, trial.step,
        trial.value, trial.value_at(first), trial.error,
    )  # fmt: skip


def importance(
    space: Space, trials: Sequence[Trial], direction: Direction, step: int
) -> dict[str, float]:
    """The importance of each option; see `SweepResult`. The most important is first."""
    optuna = load_optuna()
    study = optuna.create_study(direction=direction)
    for trial in trials:
        if (value := trial.value_at(step)) is not None:
            study.add_trial(as_finished(space, trial, value))
    if len(study.trials) < 4:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BETTER_SHARE)
    with warnings.catch_warnings(action="ignore"):  # where all are equal
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(value) for key, value in found.items()}
