"""Freeze weights of a model by layer or by path, so that training leaves them as they are."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from kgpt.errors import UsageError
from kgpt.model.gpt import GPT

EMBEDDINGS = ("token_embedding", "position_embedding")


def freeze(model: GPT, layers: int = 0, patterns: Sequence[str] = ()) -> None:
    """Freeze weights of a model; compile it afterwards.

    Args:
        layers: the embeddings and this many of the first blocks. An output that shares its weights
            with the embedding is frozen with it.
        patterns: of paths, with the wildcards ``*``, ``?`` and ``[...]``: ``"block_0/*"``,
            ``"*/mlp/*"``, ``"final_norm/scale"``.

    Raises:
        UsageError: the model has fewer layers, a pattern matches no path, or nothing is left to
            train.
    """
    if layers > len(model.blocks):
        raise UsageError(f"The model has {len(model.blocks)} layers; {layers} cannot be frozen.")
    if not layers and not patterns:
        return
    names = [*EMBEDDINGS, *(f"block_{i}/*" for i in range(layers))] if layers else []
    weights = {variable.path.partition("/")[2]: variable for variable in model.trainable_variables}
    for pattern in patterns:
        if not fnmatch.filter(weights, pattern):
            raise UsageError(
                f"No weight of the model has a path like {pattern!r}; the paths are "
                f"{', '.join(list(weights)[:8])}, ..."
            )
    frozen = {path for name in (*names, *patterns) for path in fnmatch.filter(weights, name)}
    if len(frozen) == len(weights):
        raise UsageError("All weights would be frozen; leave some to train.")
    for path in frozen:
        weights[path].trainable = False
    model.forget_compiled()
