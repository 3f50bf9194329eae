"""Successive halving: after a few steps all trials are paused, and the best of them go on.

Of n trials, n / eta go on for eta times as many steps, and so forth up to all steps (Jamieson &
Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization"). A rung is
a step at which trials are compared. As all trials of a rung are compared at once, what goes on does
not depend on which of them was faster.
"""

from __future__ import annotations

from collections.abc import Sequence

from kgpt.lab.sweeps.trial import Trial


def make_rungs(
    max_steps: int, trials: int, eta: int, every: int, min_steps: int | None
) -> list[int]:
    """The steps at which trials are compared; the last is `max_steps`.

    Args:
        eta: the reduction factor.
        every: steps between two values of the metric; a rung is a multiple of it, rounded up.
        min_steps: the first rung; when None, as low as leaves one trial for all steps.

    >>> make_rungs(900, 12, 3, 10, None), make_rungs(900, 12, 3, 250, None)
    ([100, 300, 900], [250, 500, 900])
    """
    rungs, share = [max_steps], 1
    while True:
        share *= eta
        step = -(-max_steps // share)
        if step < (min_steps or 1) or (min_steps is None and trials // share < 1):
            break
        step = -(-step // every) * every
        if step >= rungs[0]:
            break
        rungs.insert(0, step)
    return rungs


def ranked(trials: Sequence[Trial], is_minimized: bool, step: int | None = None) -> list[Trial]:
    """Those of the trials that have a value, the best first; of equals the first.

    Args:
        step: where they are compared; by their last value when None.
    """
    sign = 1 if is_minimized else -1
    values = [one.value if step is None else one.value_at(step) for one in trials]
    found = [
        (sign * value, one.number, one)
        for one, value in zip(trials, values, strict=True)
        if value is not None
    ]
    return [trial for *_, trial in sorted(found, key=lambda each: each[:2])]


def next_segments(
    trials: Sequence[Trial], rungs: Sequence[int], total: int, eta: int, is_minimized: bool
) -> tuple[list[tuple[Trial, int]], list[Trial]]:
    """Which trials are to be trained up to which step, and which go on no more.

    A trial that ended before a rung without failing is compared there by its last value.

    Args:
        trials: that have been begun.
        rungs: the steps at which they are compared, in order.
        total: how many there will be.
        eta: the reduction factor.
    """
    cohort, pruned = list(trials), list[Trial]()
    for index, rung in enumerate(rungs[:-1]):
        pending = [one for one in cohort if one.state == "running" and one.step < rung]
        if pending or len(trials) < total:
            return [(trial, rung) for trial in pending], pruned
        reached = [one for one in cohort if rung in one.values or one.state == "complete"]
        best = ranked(reached, is_minimized, rung)[: max(1, total // eta ** (index + 1))]
        pruned += [one for one in cohort if one not in best and one.state == "running"]
        cohort = best
    return [(trial, rungs[-1]) for trial in cohort if trial.state == "running"], pruned
