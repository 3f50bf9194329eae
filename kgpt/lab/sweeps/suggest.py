"""Which values a trial has: a function of the sweep's seed, its number and the trials before it."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from kgpt.config import SweepConfig
from kgpt.errors import UsageError
from kgpt.lab.sweeps.space import Parameter, Params, Space
from kgpt.lab.sweeps.trial import Trial

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial


def load_optuna() -> ModuleType:
    """The package optuna, made quiet; raises `UsageError` if it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UsageError('A sweep needs the package optuna; `pip install "kgpt[sweep]"`.') from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def suggest(
    space: Space,
    config: SweepConfig,
    number: int,
    before: Sequence[Trial],
    first_rung: int | None = None,
) -> Params:
    """The values of trial `number`.

    Args:
        before: the trials before it. Those that are running have no result yet.
        first_rung: the step whose values are compared, where all trials have one; the last of each
            when None.
    """
    if config.sampler == "grid":
        return space.grid()[number]
    optuna = load_optuna()
    study: Study = optuna.create_study(direction=config.direction, sampler=_sampler(config, number))
    for trial in before if config.sampler == "tpe" else ():
        value = trial.value if first_rung is None else trial.value_at(first_rung)
        study.add_trial(as_finished(space, trial, value))
    asked, params = study.ask(), Params()
    for parameter in space.parameters:
        if parameter.is_set(params):
            params[parameter.key] = _ask(asked, parameter)
    return params


def _sampler(config: SweepConfig, number: int) -> BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
    return RandomSampler(seed) if config.sampler == "random" else TPESampler(seed=seed)


def _ask(trial: Any, parameter: Parameter) -> Any:
    key, domain = parameter.key, parameter.domain
    if isinstance(domain, tuple):
        return trial.suggest_categorical(key, domain)
    if domain.is_int:
        step = int(domain.step or 1)
        return trial.suggest_int(key, int(domain.low), int(domain.high), log=domain.log, step=step)
    return trial.suggest_float(key, domain.low, domain.high, log=domain.log, step=domain.step)


def distributions(space: Space, params: Params) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each parameter that is set."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    found: dict[str, BaseDistribution] = {}
    for parameter in space.parameters:
        domain = parameter.domain
        if parameter.key not in params:
            continue
        if isinstance(domain, tuple):
            found[parameter.key] = CategoricalDistribution(domain)
        elif domain.is_int:
            found[parameter.key] = IntDistribution(
                int(domain.low), int(domain.high), domain.log, int(domain.step or 1)
            )
        else:
            found[parameter.key] = FloatDistribution(
                domain.low, domain.high, domain.log, domain.step
            )
    return found


def as_finished(space: Space, trial: Trial, value: float | None) -> FrozenTrial:
    """A trial as Optuna has it: finished with `value`, running, or failed."""
    from optuna.trial import TrialState, create_trial

    state = TrialState.RUNNING if trial.state == "running" else TrialState.FAIL
    return create_trial(
        state=state if value is None else TrialState.COMPLETE,
        value=value,
        params=trial.params,
        distributions=distributions(space, trial.params),
    )
