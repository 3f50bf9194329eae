"""Reward functions in Python, as trl's `GRPOTrainer` takes them.

    def reward(prompts, completions, **columns) -> list[float | None]

`prompts` and `completions` have one item for each completion: texts; or lists of messages, where
the prompts of the data are such. `columns` are the other columns of the prompts' rows by name, a
list each; a function is given those that it names, or all with `**columns`. None is no reward: the
others alone count.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.config import did_you_mean
from kgpt.data.preferences import Content
from kgpt.data.tinyworld import reward as tinyworld_reward
from kgpt.errors import TrainingFailed, UsageError

ENTRY_POINTS = "kgpt.rewards"
BUILT_IN: dict[str, Callable[..., Any]] = {"tinyworld": tinyworld_reward}
SHOWN = 80  # characters of a prompt in a message


@dataclass(frozen=True)
class Reward:
    """A reward function and its factor in the sum of the rewards.

    Attributes:
        name: what metrics and messages call it.
    """

    name: str
    function: Callable[..., Any]
    weight: float = 1.0

    def __call__(
        self,
        prompts: Sequence[Content],
        completions: Sequence[Content],
        columns: dict[str, list[Any]],
    ) -> np.ndarray:
        """The reward of each completion, NaN for None: (N,) float64, not yet weighted.

        Raises `TrainingFailed` if the function fails or does not return N numbers.
        """
        accepted = self._accepted(columns)
        try:
            values = self.function(list(prompts), list(completions), **accepted)
        except Exception as error:
            at = self._first_failure(prompts, completions, accepted)
            raise self._failure(error, prompts[at]) from error
        return self._checked(values, prompts)

    def _accepted(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The columns that the function has parameters for."""
        parameters = inspect.signature(self.function).parameters.values()
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            return columns
        names = [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_POSITIONAL][2:]
        return {name: columns[name] for name in names if name in columns}

    def _first_failure(
        self,
        prompts: Sequence[Content],
        completions: Sequence[Content],
        columns: dict[str, list[Any]],
    ) -> int:
        """The number of the first completion that fails alone; 0 if none does."""
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            try:
                self.function([prompt], [completion], **{k: [v[i]] for k, v in columns.items()})
            except Exception:
                return i
        return 0

    def _failure(self, error: Exception, prompt: Content) -> TrainingFailed:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return TrainingFailed(
            f"The reward function {self.name} failed for the prompt {shown(prompt)}: {reason}; "
            "correct it and resume the run."
        )

    def _checked(self, values: Any, prompts: Sequence[Content]) -> np.ndarray:
        try:
            rewards = np.array([np.nan if v is None else float(v) for v in values], "float64")
        except (TypeError, ValueError):
            rewards = np.empty(0)
        if len(rewards) != len(prompts):
            given = f"{type(values).__name__}" + (
                f" of {len(values)}" if hasattr(values, "__len__") else ""
            )
            raise TrainingFailed(
                f"The reward function {self.name} must return a list of {len(prompts)} numbers or "
                f"None, one for each completion, not {given}."
            )
        if np.isinf(rewards).any():
            at = int(np.isinf(rewards).argmax())
            raise TrainingFailed(
                f"The reward function {self.name} returned {rewards[at]} for the prompt "
                f"{shown(prompts[at])}; a reward must be finite, or None."
            )
        return rewards


def total_rewards(rewards: Sequence[Reward], values: np.ndarray) -> np.ndarray:
    """The weighted sum of several rewards: (N, R), NaN where there is none, to (N,).

    Raises `TrainingFailed` if a completion has none at all.
    """
    if np.isnan(values).all(axis=1).any():
        names = " and ".join(reward.name for reward in rewards)
        raise TrainingFailed(
            f"The reward {names} is None for a completion that no other function rewards; "
            "return a number, or give a further --reward."
        )
    return np.nansum(values * [reward.weight for reward in rewards], axis=1)


def load_rewards(names: Sequence[str], weights: Sequence[float] | None = None) -> list[Reward]:
    """The reward functions by name: see `load_reward`.

    Raises `UsageError` if none is named or one cannot be loaded.
    """
    if not names:
        raise UsageError(
            "No reward is named; give --reward file.py:function, or the name of one that is "
            f"installed: {', '.join(installed())}."
        )
    factors = weights or [1.0] * len(names)
    return [
        Reward(name.rpartition(":")[2] or name, load_reward(name), weight)
        for name, weight in zip(names, factors, strict=True)
    ]


def load_reward(name: str) -> Callable[..., Any]:
    """The function of "file.py:function", which runs the file; or of an installed name.

    Raises `UsageError` if there is none.
    """
    file, _, function = name.rpartition(":")
    if file:
        return _from_file(Path(file), function)
    if name in BUILT_IN:
        return BUILT_IN[name]
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        try:
            found: Callable[..., Any] = entry.load()
        except Exception as error:
            raise UsageError(f"The reward {name} cannot be loaded: {error}.") from error
        return found
    known = installed()
    raise UsageError(
        f"No reward is called {name!r}; "
        + (did_you_mean(name, known) or f"give file.py:function, or one of {', '.join(known)}.")
    )


def installed() -> list[str]:
    """The names of rewards that need no file."""
    return sorted({*BUILT_IN, *(entry.name for entry in entry_points(group=ENTRY_POINTS))})


def _from_file(file: Path, name: str) -> Callable[..., Any]:
    if not file.is_file():
        raise UsageError(f"There is no file {file} with a reward function {name}.")
    spec = importlib.util.spec_from_file_location(f"kgpt_reward_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} is not a Python file; a reward is named as file.py:function.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"The reward file {file} cannot be run: {reason}.") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        hint = did_you_mean(name, known) or f"it has {', '.join(known) or 'none'}."
        raise UsageError(f"{file} has no function {name}; {hint}")
    return function


def shown(prompt: Content) -> str:
    """The end of a prompt, for a message."""
    text = prompt if isinstance(prompt, str) else str(prompt[-1].get("content", ""))
    return repr(text if len(text) <= SHOWN else f"…{text[-SHOWN:]}")
