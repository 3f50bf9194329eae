"""Conversations as tokens, with a mask of what the assistant said.

    <|im_start|>user
    Hello!<|im_end|>
    <|im_start|>assistant
    Hi!<|im_end|>

is ChatML, the layout of kgpt's own models; other models bring theirs as a Jinja template. Either
way only the layout writes special tokens: what a person or model says is always plain text, so
nobody can forge a turn by typing `<|im_start|>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from kgpt.errors import UsageError
from kgpt.text.jinja_sandbox import Template
from kgpt.text.tokenizer import CHATML_TEMPLATE, TURN_END, TURN_START, Tokenizer, clean

__all__ = ["CHATML_TEMPLATE", "Chat", "ChatMLTemplate", "JinjaChatTemplate", "load_chat_template"]

Message = Mapping[str, str]


class Chat(Protocol):
    """What `ChatMLTemplate` and `JinjaChatTemplate` have in common."""

    def encode(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
    ) -> tuple[list[int], list[bool]]:
        """Ids of a conversation, and for each whether the assistant wrote it.

        Args:
            messages: each with "role" and "content".
            add_generation_prompt: open the assistant's next turn, for the model to write.
            continue_final_message: leave the last message open, for the model to go on with.
        """
        ...


def load_chat_template(tokenizer: Tokenizer) -> Chat | None:
    """How the model of `tokenizer` wants conversations; None if it was not made for them."""
    template = tokenizer.special_tokens.chat_template
    if template is None:
        return None
    return (
        ChatMLTemplate(tokenizer) if template == CHATML_TEMPLATE else JinjaChatTemplate(tokenizer)
    )


class ChatMLTemplate:
    """ChatML, written as ids of one tokenizer, which must know the ChatML tokens."""

    def __init__(self, tokenizer: Tokenizer):
        if tokenizer.token_to_id(TURN_START) is None or tokenizer.token_to_id(TURN_END) is None:
            raise UsageError(
                f"This tokenizer has no {TURN_START} and {TURN_END}, so the model cannot chat."
            )
        self.tokenizer = tokenizer
        self.end = tokenizer.encode(f"{TURN_END}\n", allow_special=True)
        self._openings: dict[str, list[int]] = {}

    def encode(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
    ) -> tuple[list[int], list[bool]]:
        """See `Chat.encode`."""
        contents = self.tokenizer.encode_batch([message["content"] for message in messages])
        ids: list[int] = []
        assistant_mask: list[bool] = []
        for message, content in zip(messages, contents, strict=True):
            opening = self.turn_header(message["role"])
            ids += opening + content + self.end
            by_model = message["role"] == "assistant"
            # The turn's end is the model's to say; the line break after it is layout.
            assistant_mask += [False] * len(opening) + [by_model] * (len(content) + 1)
            assistant_mask += [False] * (len(self.end) - 1)
        if continue_final_message and messages:
            del ids[-len(self.end) :], assistant_mask[-len(self.end) :]
        elif add_generation_prompt:
            ids += self.turn_header("assistant")
            assistant_mask += [False] * (len(ids) - len(assistant_mask))
        return ids, assistant_mask

    def turn_header(self, role: str) -> list[int]:
        """Ids that open a turn of `role`."""
        if role not in self._openings:
            start = self.tokenizer.encode(TURN_START, allow_special=True)
            self._openings[role] = start + self.tokenizer.encode(f"{role}\n")
        return self._openings[role]


# Noncharacters of Unicode, which no text holds, mark places in what a template writes.
BREAK, OPEN, CLOSE = "\ufdd0", "\ufdd1", "\ufdd2"
MARKS = re.compile(f"[{BREAK}{OPEN}{CLOSE}]")


class JinjaChatTemplate:
    """The layout of a model's own Jinja template."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.template = Template(
            tokenizer.special_tokens.chat_template or "", tokenizer.special_tokens.tokens
        )
        words = sorted(tokenizer.special_by_id.values(), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, words)) or r"(?!)")
        # Texts that would complete a special token with what the layout writes beside them.
        halves = {(word[:i], word[i:]) for word in words for i in range(1, len(word))}
        self._starts = tuple({start for start, _ in halves})
        self._ends = tuple({end for _, end in halves})

    def encode(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
    ) -> tuple[list[int], list[bool]]:
        """See `Chat.encode`."""
        broken = [self._plain(message) for message in messages]
        add_generation_prompt = add_generation_prompt and not continue_final_message
        text = self.template.render(broken, add_generation_prompt)
        marked = self._with_assistant_marks(broken, add_generation_prompt)
        if continue_final_message and messages:
            text = self._open_end(broken)
        return self._encode(text, marked)

    def _plain(self, message: Message) -> dict[str, str]:
        """`message` with marks inside whatever is, or could become, a special token."""
        if not isinstance(message.get("content"), str):
            raise UsageError("Each message needs text as its content.")
        fields = {name: MARKS.sub("\ufffd", clean(str(text))) for name, text in message.items()}
        fields = {name: self._special.sub(_inside, text) for name, text in fields.items()}
        return fields | {"content": self._break(fields["content"])}

    def _break(self, content: str) -> str:
        """`content` with marks where the layout beside it could complete a special token."""
        core = content.strip()
        if core.endswith(self._starts):
            place = len(content.rstrip())
            content = content[:place] + BREAK + content[place:]
        if core.startswith(self._ends):
            place = len(content) - len(content.lstrip())
            content = content[:place] + BREAK + content[place:]
        return content

    def _with_assistant_marks(
        self, messages: Sequence[Message], add_generation_prompt: bool
    ) -> str:
        """What the template writes, with marks around what the assistant says."""
        marked = []
        for message in messages:
            core = message["content"].strip()
            if message["role"] == "assistant" and core:
                content = message["content"].replace(core, f"{OPEN}{core}{CLOSE}", 1)
                message = {**message, "content": content}
            marked.append(message)
        return self.template.render(marked, add_generation_prompt)

    def _open_end(self, messages: Sequence[Message]) -> str:
        """What the template writes up to the end of the last message."""
        last = {**messages[-1], "content": messages[-1]["content"] + CLOSE + " "}
        text = self.template.render([*messages[:-1], last])
        end = text.rfind(CLOSE)
        if end < 0:
            raise UsageError("The model's chat template does not write the last message as it is.")
        # A template that dropped the space trims messages, so it would have trimmed this one.
        return text[:end] if text[end + 1 : end + 2] == " " else text[:end].rstrip()

    def _encode(self, text: str, marked: str) -> tuple[list[int], list[bool]]:
        """Ids of what a template wrote, with special tokens where the layout has them."""
        plain = text.replace(BREAK, "")
        places = [(found.start() - text.count(BREAK, 0, found.start()), found[0])
                  for found in self._special.finditer(text)]  # fmt: skip
        if not MARKS.sub("", marked).startswith(plain):
            marked = ""  # the template looks into messages: what it made of them is not known
        if places == [(found.start(), found[0]) for found in self._special.finditer(plain)]:
            pieces = [(plain, True)]
        else:  # somebody wrote a special token: it is spelled out, as any other word
            pieces, end = [], 0
            for start, word in places:
                pieces += [(plain[end:start], False), (word, True)]
                end = start + len(word)
            pieces.append((plain[end:], False))
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        begin = 0
        for piece, special in pieces:
            more, places_in_piece = self.tokenizer.encode_with_offsets(piece, special)
            ids += more
            spans += [(begin + start, begin + end) for start, end in places_in_piece]
            begin += len(piece)
        return ids, self._mask(ids, spans, plain, marked)

    def _mask(
        self, ids: list[int], spans: list[tuple[int, int]], plain: str, marked: str
    ) -> list[bool]:
        """For each token, whether the assistant said it: its words, and the token after them."""
        said: list[tuple[int, int]] = []
        start = None
        for marks, found in enumerate(MARKS.finditer(marked)):
            place = found.start() - marks
            if found[0] == CLOSE and start is not None:
                said.append((start, place))
            if found[0] != BREAK:
                start = place if found[0] == OPEN else None
        # The model has to write what stands between its words and the token that ends them.
        said = [(start, len(plain) - len(plain[stop:].lstrip())) for start, stop in said]
        special = self.tokenizer.special_by_id
        mask = [any(a < stop and b > start for start, stop in said) for a, b in spans]
        for i in range(1, len(ids)):
            mask[i] = mask[i] or (mask[i - 1] and ids[i] in special and ids[i - 1] not in special)
        return mask


def _inside(found: re.Match[str]) -> str:
    """A special token with a mark inside, so that it is none any more."""
    return found[0][0] + BREAK + found[0][1:]
