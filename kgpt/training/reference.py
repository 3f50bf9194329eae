"""Log-probabilities of completions by the reference of a preference loss, computed once.

With them a model that is trained as a whole needs no copy of itself in memory.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np

from kgpt import backend
from kgpt.data.preference_dataset import CompletionBatches, Completions
from kgpt.data.sampler import LengthBuckets
from kgpt.model.adapters import adapters_disabled
from kgpt.model.gpt import GPT
from kgpt.training.preference_loss import completion_log_probs


def reference_log_probs(
    model: GPT, data: CompletionBatches, batch_size: int | None = None, chunk: int = 4096
) -> dict[str, np.ndarray]:
    """The log-probabilities of all completions of a data set, to be set as its `reference`.

    Args:
        model: the reference: the model before it is trained, or another. Adapters are disabled.
        data: a `kgpt.PreferenceDataset` or `kgpt.UnpairedPreferenceDataset`.
        batch_size: completions at a time; that of `data` when not given.
        chunk: tokens whose logits are in memory at a time.
    """
    disabled = nullcontext() if model.adapter_config is None else adapters_disabled(model)
    with disabled:
        forward = backend.jit(
            lambda inputs, targets, weights: completion_log_probs(
                model, inputs, targets, weights, chunk
            ),
            model.variables,
        )
        return {
            name: _log_probs(forward, completions, batch_size or data.batch_size)
            for name, completions in data.parts().items()
        }


def _log_probs(forward: Any, completions: Completions, batch_size: int) -> np.ndarray:
    """(N,) float32, in batches of completions of similar length."""
    sizes = completions.sizes
    found = np.zeros(len(sizes), np.float32)
    buckets = LengthBuckets(sizes, int(sizes.max()), batch_size, seed=None)
    for step in range(buckets.per_epoch):
        rows, length = buckets.batch(step)
        padded = np.pad(rows, (0, batch_size - len(rows)), mode="edge")
        batch = completions.padded(padded, length)
        arrays = (batch[name] for name in ("inputs", "targets", "weights"))
        found[rows] = backend.to_host(forward(*arrays))[: len(rows)]
    return found
