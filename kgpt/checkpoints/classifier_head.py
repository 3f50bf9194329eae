"""A classifier in config.json, as `GPT2ForSequenceClassification` and its like of transformers.

The labels: `id2label`, `problem_type` for several labels a text, and
`pad_token_id`, which tells a text's last token from padding. In place of the language model's head
there is `score.weight` (labels, hidden_dim).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kgpt.checkpoints.hf_config import ARCHITECTURES, model_type_of
from kgpt.checkpoints.peft_format import base_folder
from kgpt.config import ModelConfig
from kgpt.errors import CheckpointError, UsageError
from kgpt.text.special_tokens import read_json_object

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

    @classmethod
    def refuse(cls, folder: Path, what: str) -> None:
        """Raise `UsageError`, which ends with `what`, if `folder` is a classifier's."""
        if cls.load(folder) is not None:
            raise UsageError(f"{folder} is a classifier, {what}")

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
