"""Load classifiers: as they were saved, or as a new head on a language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kgpt.checkpoints.classifier_head import ClassifierHead
from kgpt.checkpoints.hub import resolve_source
from kgpt.checkpoints.pretrained import assign_vectors, load_config, load_tokenizer
from kgpt.checkpoints.weights import Weights
from kgpt.config import ModelConfig
from kgpt.errors import UsageError
from kgpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from kgpt.model.classifier import Classifier


def padding_id(tokenizer: Tokenizer) -> int:
    """The token to pad texts with: the tokenizer's own, else the one between documents.

    Raises `UsageError` if it has neither.
    """
    own = tokenizer.token_to_id(tokenizer.special_tokens.tokens.get("pad_token", ""))
    found = tokenizer.eos_id if own is None else own
    if found is None:
        raise UsageError("The tokenizer has neither a pad_token nor an eos_token to pad with.")
    return found


def from_pretrained(
    source: str | Path,
    *,
    labels: Sequence[str] | None = None,
    multi_label: bool = False,
    dtype: str = "float32",
    **options: Any,
) -> Classifier:
    """`kgpt.Classifier.from_pretrained`: the classifier that `source` names, or a new one.

    Args:
        source: a model directory, a run (its best checkpoint), run@step, or a hub id.
        labels: of a new classifier, which has the weights of `source` under a new head; its own
            where it is a classifier.
        multi_label: whether a text may have several of those labels.
        dtype: of weights and computation.
        options: those of `Classifier`.

    Raises:
        KgptError: there is no such model, it is damaged, or it is no classifier.
    """
    folder = resolve_source(source)
    if labels is None:
        model = load_classifier(folder, dtype=dtype, **options)
    else:
        model = new_classifier(folder, labels, multi_label, dtype=dtype, **options)
    model.name_or_path = str(source)
    return model


def load_classifier(folder: Path, **options: Any) -> Classifier:
    """The classifier of a model directory.

    Args:
        options: passed to `Classifier`, such as `dtype` or `weight_format`.

    Raises:
        UsageError: it is no classifier. CheckpointError: it is damaged.
    """
    head = ClassifierHead.load(folder)
    if head is None:
        raise UsageError(
            f"{folder} is no classifier; `kgpt classify train --model {folder}` makes one of it."
        )
    return _load(folder, head, head, options)


def new_classifier(
    folder: Path,
    labels: Sequence[str],
    multi_label: bool = False,
    pad_id: int | None = None,
    config: ModelConfig | None = None,
    **options: Any,
) -> Classifier:
    """A classifier to be trained, with the weights of a model directory under a new head.

    The head of a classifier with the same labels is kept.

    Args:
        labels, multi_label: as in `kgpt.Classifier`.
        pad_id: of the tokenizer in `folder` when not given.
        config: of the model, with other options than its own that change no weight: dropout.
        options: passed to `Classifier`.
    """
    pad = padding_id(load_tokenizer(folder)) if pad_id is None else pad_id
    head = ClassifierHead(tuple(labels), multi_label, pad)
    return _load(folder, ClassifierHead.load(folder), head, options, config)


def _load(
    folder: Path,
    stored: ClassifierHead | None,
    head: ClassifierHead,
    options: dict[str, Any],
    config: ModelConfig | None = None,
) -> Classifier:
    """The weights of `folder`, which has the head `stored`, in a classifier with `head`."""
    from kgpt.model.classifier import Classifier
    from kgpt.model.initializers import CheckpointInitializer

    config = config or load_config(folder)
    keeps = stored is not None and stored.labels == head.labels
    weights = Weights(folder, config, stored.num_labels if stored else None)
    initializer = CheckpointInitializer(
        weights,
        config.initializer_range,
        new=() if keeps else ("score",),
        seed=options.get("seed", 0),
    )
    model = Classifier(
        config, head.labels, head.multi_label, head.pad_id, initializer=initializer, **options
    )
    assign_vectors(model, weights)
    return model
