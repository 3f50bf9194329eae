"""The record of a sweep: an Optuna study in SQLite. One process writes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kgpt.config.sweep import Direction
from kgpt.lab.sweeps.space import Params, Space
from kgpt.lab.sweeps.suggest import distributions, load_optuna
from kgpt.lab.sweeps.trial import Trial, TrialState

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

FILE = "study.db"
BUSY_TIMEOUT_S = 60  # where another program reads the file


class SweepStudy:
    """Trials, their values at each pause, and how they ended.

    Whatever moment the process is killed at, the record is that before or after a method.
    """

    def __init__(self, folder: Path, name: str, direction: Direction, space: Space):
        optuna = load_optuna()
        self._storage = optuna.storages.RDBStorage(
            f"sqlite:///{(folder / FILE).resolve()}",
            engine_kwargs={"connect_args": {"timeout": BUSY_TIMEOUT_S}},
        )
        self._study = optuna.create_study(
            storage=self._storage, study_name=name, direction=direction, load_if_exists=True
        )
        self.space = space
        self._known: list[FrozenTrial] | None = None  # until the next write
        for frozen in self._frozen():  # killed between the two transactions of `end`
            if frozen.state.name == "RUNNING" and "error" in frozen.user_attrs:
                self._set_state(frozen, frozen.user_attrs["error"][0])

    def trials(self) -> list[Trial]:
        """All trials that have been begun, in order."""
        return [_trial(frozen) for frozen in self._frozen()]

    def add(self, params: Params) -> None:
        """Begin the next trial."""
        from optuna.trial import TrialState, create_trial

        self._known = None
        self._study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=params,
                distributions=distributions(self.space, params),
            )
        )

    def report(self, number: int, step: int, value: float) -> None:
        """Note the value of a trial at a step."""
        trial_id, self._known = self._id(number), None
        self._storage.set_trial_intermediate_value(trial_id, step, value)

    def end(self, number: int, state: TrialState, error: str | None = None) -> None:
        """Note how a trial has ended, and if need be why."""
        if error is not None:
            trial_id, self._known = self._id(number), None
            self._storage.set_trial_user_attr(trial_id, "error", [state, error])
        self._set_state(self._frozen()[number], state)

    def _set_state(self, frozen: FrozenTrial, state: TrialState) -> None:
        from optuna.trial import TrialState as States

        states = {"complete": States.COMPLETE, "pruned": States.PRUNED, "failed": States.FAIL}
        value = None if state == "failed" else _trial(frozen).value
        values = None if value is None else [value]
        self._known = None
        self._storage.set_trial_state_values(frozen._trial_id, states[state], values)

    def _frozen(self) -> list[FrozenTrial]:
        if self._known is None:
            self._known = self._study.get_trials(deepcopy=False)
        return self._known

    def _id(self, number: int) -> int:
        return self._frozen()[number]._trial_id


def _trial(frozen: FrozenTrial) -> Trial:
    states: dict[str, TrialState] = {
        "RUNNING": "running", "COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed",
    }  # fmt: skip
    return Trial(
        frozen.number,
        dict(frozen.params),
        states[frozen.state.name],
        dict(frozen.intermediate_values),
        frozen.user_attrs["error"][1] if "error" in frozen.user_attrs else None,
    )
