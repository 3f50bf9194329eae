"""The weights of an export, tensor by tensor, against those of the model directory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from kgpt.verification.observation import Observation


def compare_weights(
    seen: Observation, expected: Iterable[tuple[str, np.ndarray]], found: Mapping[str, np.ndarray]
) -> None:
    """Add to `seen` how many weights are equal, and a fault for the first tensor that differs.

    Args:
        expected: names and values, one at a time. They are compared in the dtype of `found`.
    """
    seen.num_weights = 0
    for name, value in expected:
        fault = _difference(name, value, found.get(name))
        if fault is not None:
            seen.faults.append(fault)
            return
        seen.num_weights += value.size


def _difference(name: str, expected: np.ndarray, found: np.ndarray | None) -> str | None:
    if found is None:
        return f"the tensor {name} is missing"
    if found.shape != expected.shape:
        return f"the tensor {name} has the shape {list(found.shape)}, not {list(expected.shape)}"
    stored = np.asarray(expected).astype(found.dtype)
    wrong = np.argwhere(stored != found)
    if not len(wrong):
        return None
    index = tuple(map(int, wrong[0]))
    return (
        f"the tensor {name} differs in {len(wrong)} of {found.size} weights: {list(index)} is "
        f"{float(found[index]):.6g}, not {float(stored[index]):.6g}"
    )
