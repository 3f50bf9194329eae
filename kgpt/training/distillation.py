"""Distillation: a new or a pretrained model learns from the texts of a data set, and a teacher."""

from __future__ import annotations

from kgpt.checkpoints.hub import resolve_source
from kgpt.checkpoints.pretrained import load_config, load_model, load_tokenizer
from kgpt.config import Config, ModelConfig, compute_dtype
from kgpt.errors import DataError, KgptError, UsageError
from kgpt.model.gpt import GPT
from kgpt.training.base_model import (
    check_tokenizer,
    flops_per_token,
    lasting_name,
    load_base_model,
    with_base_model,
)
from kgpt.training.distiller import Distiller
from kgpt.training.pretraining import TokenDatasetTask, new_model, sequence_length, with_vocabulary
from kgpt.training.task import compile_model, loss_chunk


class Distillation(TokenDatasetTask):
    """A student, `finetune.model` or a new one, learns to predict what its teacher predicts.

    The teacher is no part of the checkpoints; run.yaml names it.
    """

    can_distribute = False  # Keras divides batches of arrays among devices, not `SoftTargets`

    def complete(self) -> None:
        name = self.config.distill.teacher
        if name is None:
            raise UsageError("No teacher is named; give the model to learn from with --teacher.")
        teacher = load_config(resolve_source(name))
        self._check_teacher(name, teacher)
        config = self._with_student(self.config, teacher)
        if config.model.vocab_size != teacher.vocab_size:
            raise UsageError(
                f"The student has {config.model.vocab_size} tokens, but the teacher {name} has "
                f"{teacher.vocab_size}; a student needs the tokenizer and the vocabulary size of "
                "its teacher."
            )
        if sequence_length(config) > teacher.max_length:
            raise UsageError(
                f"The context of the teacher {name} is {teacher.max_length} tokens; set "
                "train.sequence_length to that or less."
            )
        distill = config.distill.model_copy(update={"teacher": lasting_name(name)})
        self.config = config.model_copy(update={"distill": distill})

    def _with_student(self, config: Config, teacher: ModelConfig) -> Config:
        """`config` with a student's architecture; a new one has as many tokens as its teacher."""
        if config.finetune.model is not None:
            config = with_base_model(config)
            check_tokenizer(config, self.describe_data())
            return config
        if config.model.vocab_size is None:
            model = config.model.model_copy(update={"vocab_size": teacher.vocab_size})
            config = config.model_copy(update={"model": model})
        return with_vocabulary(config, self.data)

    def _check_teacher(self, name: str, teacher: ModelConfig) -> None:
        """Raise `DataError` if the data are no tokens of the teacher's tokenizer."""
        try:
            tokenizer = load_tokenizer(resolve_source(name))
        except KgptError:
            tokenizer = None
        known = tokenizer is None or tokenizer.fingerprint == self.data.manifest.tokenizer_sha256
        if not known or self.data.manifest.vocab_size > teacher.known_vocab_size:
            raise DataError(
                f"The data set {self.data.folder} was prepared with another tokenizer than that of "
                f"the teacher {name}; prepare it with `kgpt data prepare FILES --tokenizer {name} "
                "--out DIR`."
            )

    def build_model(self) -> Distiller:
        config, train, distill = self.config, self.config.train, self.config.distill
        student = load_base_model(config) if config.finetune.model else new_model(config)
        model = Distiller(
            student,
            self._load_teacher(),
            distill.temperature,
            distill.alpha,
            distill.top_k,
            train.label_smoothing,
            loss_chunk(config),
        )
        compile_model(model, train, None)
        return model

    def _load_teacher(self) -> GPT:
        """In the precision of the computation, as it is never updated."""
        folder = resolve_source(self.config.distill.teacher or "")
        return load_model(folder, dtype=compute_dtype(self.config.train.precision))

    @property
    def flops_per_token(self) -> float:
        """Those of the student, and of the teacher's forward pass."""
        length = sequence_length(self.config)
        teacher = load_config(resolve_source(self.config.distill.teacher or ""))
        return flops_per_token(self.config, length) + teacher.flops_per_token(length) / 3

    def summary(self) -> str:
        distill = self.config.distill
        return (
            f"{super().summary()}; learns from {distill.teacher}, temperature "
            f"{distill.temperature:g}, alpha {distill.alpha:g}"
        )
