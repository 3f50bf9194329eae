"""Model directories of classifiers, as transformers' `GPT2ForSequenceClassification` and its like.

config.json names the labels: `id2label`, `problem_type` for several labels a text, and
`pad_token_id`, which tells a text's last token from padding. In place of the language model's head
there is `score.weight` (labels, hidden_dim).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from kgpt.checkpoints.hf_config import ARCHITECTURES, model_type_of
from kgpt.checkpoints.hub import resolve_source
from kgpt.checkpoints.peft_format import base_folder
from kgpt.config import ModelConfig
from kgpt.errors import CheckpointError, UsageError
from kgpt.text.special_tokens import read_json_object
from kgpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from kgpt.model.classifier import Classifier

SUFFIX = "ForSequenceClassification"
PROBLEM_TYPES = {False: "single_label_classification", True: "multi_label_classification"}


@dataclass(frozen=True)
class ClassifierHead:
    """What a classifier has besides a GPT; see `kgpt.Classifier` for the attributes."""

    labels: tuple[str, ...]
    multi_label: bool = False
    pad_id: int = -1

    @property
    def num_labels(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, model: Any) -> Self | None:
        """That of a model; None if it is no classifier."""
        labels = getattr(model, "labels", None)
        return None if labels is None else cls(tuple(labels), model.multi_label, model.pad_id)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """That of a model directory; None if it is no classifier's.

        Raises `CheckpointError` if its labels are not numbered from 0.
        """
        file = base_folder(folder) / "config.json"
        values = read_json_object(file)
        architecture = next(iter(values.get("architectures") or ()), "")
        if not str(architecture).endswith(SUFFIX):
            return None
        names = values.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # transformers' default
        try:
            labels = tuple(str(names[str(i)]) for i in range(len(names)))
        except (KeyError, TypeError):
            raise CheckpointError(f"{file} does not number its labels from 0 (id2label).") from None
        multi_label = values.get("problem_type") == PROBLEM_TYPES[True]
        pad = values.get("pad_token_id")
        return cls(labels, multi_label, -1 if pad is None else int(pad))

    def as_config(self, config: ModelConfig) -> dict[str, Any]:
        """The entries of config.json."""
        model_type = model_type_of(config)
        causal = ARCHITECTURES.get(model_type, "Kgpt")
        stem = causal.removesuffix("LMHeadModel").removesuffix("ForCausalLM")
        values = {
            "architectures": [stem + SUFFIX],
            "id2label": {str(i): name for i, name in enumerate(self.labels)},
            "label2id": {name: i for i, name in enumerate(self.labels)},
            "problem_type": PROBLEM_TYPES[self.multi_label],
        }
        return values if self.pad_id < 0 else values | {"pad_token_id": self.pad_id}


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
    from kgpt.checkpoints.pretrained import load_tokenizer

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
    from kgpt.checkpoints.pretrained import assign_vectors, load_config
    from kgpt.checkpoints.weights import Weights
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
