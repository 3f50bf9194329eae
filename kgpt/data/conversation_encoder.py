"""Conversations as token ids with their loss mask, in the model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from kgpt.conversations import Message
from kgpt.data.invalid_rows import InvalidRows
from kgpt.errors import DataError, UsageError
from kgpt.text.chat_template import ChatMLTemplate, load_chat_template
from kgpt.text.tokenizer import Tokenizer

Truncate = Literal["keep-start", "skip"]
TRUNCATE: tuple[Truncate, ...] = get_args(Truncate)


class ConversationEncoder:
    """Encodes conversations in the chat template of a tokenizer, or ChatML if it has none.

    Args:
        max_length: tokens of a conversation, at most; None for any number.
        truncate: of a longer one, "keep-start" keeps the first tokens; "skip" leaves it out. One
            that keeps nothing of the assistant's is left out, too.
        invalid: takes conversations that the template rejects; None refuses them.

    Attributes:
        truncated: how many conversations were cut.
        too_long: how many were left out because they are too long.

    Raises:
        UsageError: the tokenizer has neither a chat template nor the tokens of ChatML.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_length: int | None = None,
        truncate: Truncate = "keep-start",
        invalid: InvalidRows | None = None,
    ):
        self.template = load_chat_template(tokenizer) or ChatMLTemplate(tokenizer)
        self.max_length, self.truncate = max_length, truncate
        self.invalid = invalid or InvalidRows()
        self.truncated = self.too_long = 0
        self._end = tokenizer.eos_id

    def encode(
        self, messages: Sequence[Message], where: str = "the conversation"
    ) -> tuple[list[int], list[bool]] | None:
        """Token ids and loss mask of a conversation; None if it is left out.

        An end-of-text token follows, which is not learned, unless the template ends with it.

        Raises:
            DataError: the template rejects the conversation, which is at `where`, and such ones
                are not skipped.
        """
        try:
            if self.template.ignores_system_prompt and messages[0]["role"] == "system":
                raise UsageError("The model's chat template leaves system prompts out.")
            ids, mask = self.template.encode(messages)
        except UsageError as error:
            self.invalid.add(DataError(f"{where}: {error}"))
            return None
        if not any(mask):
            self.invalid.add(DataError(f"{where}: the chat template renders no learned message."))
            return None
        if self.max_length is not None and len(ids) > self.max_length:
            return self._truncated(ids, mask, self.max_length)
        if self._end is not None and ids[-1] != self._end and len(ids) != self.max_length:
            return [*ids, self._end], [*mask, False]
        return ids, mask

    def take_counts(self) -> dict[str, int]:
        """`truncated` and `too_long`, which begin at 0 again."""
        counts = {"truncated": self.truncated, "too_long": self.too_long}
        self.truncated = self.too_long = 0
        return counts

    def _truncated(
        self, ids: list[int], mask: list[bool], size: int
    ) -> tuple[list[int], list[bool]] | None:
        if self.truncate == "skip" or not any(mask[:size]):
            self.too_long += 1
            return None
        self.truncated += 1
        return ids[:size], mask[:size]
