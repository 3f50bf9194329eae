"""Conversations as tokens: the ChatML layout, with a mask of what the assistant said.

    <|im_start|>user
    Hello!<|im_end|>
    <|im_start|>assistant
    Hi!<|im_end|>

The layout's special tokens are written by kgpt; what a person or model says is always plain text,
so nobody can forge a turn by typing `<|im_start|>`.
"""

from __future__ import annotations

from collections.abc import Sequence

from kgpt.errors import UsageError
from kgpt.text.tokenizer import TURN_END, TURN_START, Tokenizer

# The same layout as a Jinja template: `tokenizer_config.json` carries it to other software.
CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class ChatFormat:
    """Writes messages as ids of one tokenizer, which must know the ChatML tokens."""

    def __init__(self, tokenizer: Tokenizer):
        if tokenizer.id_of(TURN_START) is None or tokenizer.id_of(TURN_END) is None:
            raise UsageError(
                f"This tokenizer has no {TURN_START} and {TURN_END}, so the model cannot chat."
            )
        self.tokenizer = tokenizer
        self.end = tokenizer.encode(f"{TURN_END}\n", allow_special=True)
        self._openings: dict[str, list[int]] = {}

    def encode(
        self, messages: Sequence[dict[str, str]], reply: bool = False
    ) -> tuple[list[int], list[bool]]:
        """Ids of a conversation, and for each whether the assistant wrote it.

        With `reply` the opening of an assistant turn is added, for the model to continue.
        """
        contents = self.tokenizer.encode_batch([message["content"] for message in messages])
        ids: list[int] = []
        spoken: list[bool] = []
        for message, content in zip(messages, contents, strict=True):
            opening = self.opening(message["role"])
            ids += opening + content + self.end
            by_model = message["role"] == "assistant"
            # The turn's end is the model's to say; the line break after it is layout.
            spoken += [False] * len(opening) + [by_model] * (len(content) + 1)
            spoken += [False] * (len(self.end) - 1)
        if reply:
            ids += self.opening("assistant")
            spoken += [False] * (len(ids) - len(spoken))
        return ids, spoken

    def opening(self, role: str) -> list[int]:
        """Ids that open a turn of `role`."""
        if role not in self._openings:
            start = self.tokenizer.encode(TURN_START, allow_special=True)
            self._openings[role] = start + self.tokenizer.encode(f"{role}\n")
        return self._openings[role]
