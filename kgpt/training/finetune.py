"""Supervised fine-tuning: a pretrained model learns from the texts or conversations of a data set.

It is pretraining that starts from another model's weights, of which all, some, or adapters are
trained.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import cached_property

from kgpt.model.gpt import GPT
from kgpt.text.chat_template import CHATML_TEMPLATE, load_chat_template
from kgpt.text.tokenizer import TURN_END, Tokenizer
from kgpt.training.base_model import (
    check_tokenizer,
    count_trainable,
    describe_method,
    flops_per_token,
    load_base_model,
    with_base_model,
)
from kgpt.training.pretraining import TokenDatasetTask, sequence_length, with_data_options
from kgpt.training.task import compile_model, next_token_loss


class SupervisedFineTuning(TokenDatasetTask):
    """A model learns the next token: of texts, or of the assistant's turns."""

    trainable = 0  # parameters, known once the model is built

    def complete(self) -> None:
        config = with_base_model(self.config)
        check_tokenizer(config, self.describe_data())
        self.config = with_data_options(config, self.data.has_conversations)

    @cached_property
    def tokenizer(self) -> Tokenizer:  # type: ignore[override]
        """That of the data; one without a chat template has ChatML, of which conversations are.

        Generation then ends with the assistant's turn, too.
        """
        tokenizer = copy(self.data.tokenizer)
        special = tokenizer.special_tokens
        if self.data.has_conversations and special.chat_template is None:
            turn_end = tokenizer.token_to_id(TURN_END)
            tokenizer.special_tokens = replace(
                special,
                chat_template=CHATML_TEMPLATE,
                stop_ids=special.stop_ids | ({turn_end} if turn_end is not None else set()),
            )
        return tokenizer

    def encode_prompt(self, prompt: str) -> list[int]:
        """Of a model that learns conversations, a prompt is what the user says first."""
        template = load_chat_template(self.tokenizer) if self.data.has_conversations else None
        if template is None:
            return super().encode_prompt(prompt)
        return template.encode([{"role": "user", "content": prompt}], add_generation_prompt=True)[0]

    def build_model(self) -> GPT:
        model = load_base_model(self.config)
        compile_model(model, self.config.train, next_token_loss(self.config))
        self.trainable = count_trainable(model)
        return model

    @property
    def flops_per_token(self) -> float:
        return flops_per_token(self.config, sequence_length(self.config))

    def summary(self) -> str:
        finetune, how = self.config.finetune, describe_method(self.config)
        if finetune.has_adapters and finetune.base_precision != "float32":
            how += f" on {finetune.base_precision} weights"
        return (
            f"{finetune.model}: {super().summary()}; {how}: {self.trainable:,} parameters are "
            "trained"
        )
