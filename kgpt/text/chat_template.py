"""Chat templates: conversations as token ids, with a mask of the assistant's tokens.

    <|im_start|>user
    Hello!<|im_end|>
    <|im_start|>assistant
    Hi!<|im_end|>

is ChatML, the template of models trained by kgpt; other models come with a Jinja template. Message
contents are always encoded as plain text: a user cannot forge a turn by typing `<|im_start|>`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

from kgpt.conversations import Message, is_learned
from kgpt.errors import UsageError
from kgpt.text.assistant_mask import (
    BREAK,
    MARKERS,
    SPAN_END,
    generation_spans,
    overlapping,
    turn_spans,
)
from kgpt.text.jinja_sandbox import Template
from kgpt.text.tokenizer import CHATML_TEMPLATE, TURN_END, TURN_START, Tokenizer, clean
from kgpt.text.tool_calls import (
    ToolCallFormat,
    common_prefix_length,
    find_tool_call_format,
    with_template_calls,
)

__all__ = ["CHATML_TEMPLATE", "Chat", "ChatMLTemplate", "JinjaChatTemplate", "load_chat_template"]

PROBE = "kgpt probe"


class Chat(Protocol):
    """Interface of `ChatMLTemplate` and `JinjaChatTemplate`.

    Attributes:
        tool_call_format: how the model writes tool calls; None if the template renders no tools.
        variables: names that the template reads from outside, such as "enable_thinking".
        ignores_system_prompt: True if the template leaves a system prompt out.
    """

    @property
    def tool_call_format(self) -> ToolCallFormat | None: ...

    @property
    def ignores_system_prompt(self) -> bool: ...

    @property
    def variables(self) -> frozenset[str]: ...

    def encode(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> tuple[list[int], list[bool]]:
        """Token ids of a conversation, and the mask of those that the assistant generates.

        The mask is for training: with `add_generation_prompt` or `continue_final_message`, which
        are for generation, it is all False.

        Args:
            messages: see `kgpt.conversations`; those with the weight 0 are not in the mask.
                They may have tool calls and results if the model has a `tool_call_format`:
                {"role": "assistant", "tool_calls": [{"id", "function": {"name", "arguments"}}]}
                and {"role": "tool", "tool_call_id", "content"}.
            add_generation_prompt: append the header of the assistant's next turn.
            continue_final_message: omit the end of the last turn, so that the model continues it.
            tools: functions that the model may call, as in the OpenAI API.
            variables: values of the template's variables.
        """
        ...


def load_chat_template(tokenizer: Tokenizer) -> Chat | None:
    """The chat template of a tokenizer; None if it has none."""
    template = tokenizer.special_tokens.chat_template
    if template is None:
        return None
    return (
        ChatMLTemplate(tokenizer) if template == CHATML_TEMPLATE else JinjaChatTemplate(tokenizer)
    )


class ChatMLTemplate:
    """ChatML with the ids of a tokenizer; raises `UsageError` if it lacks the ChatML tokens."""

    def __init__(self, tokenizer: Tokenizer):
        if tokenizer.token_to_id(TURN_START) is None or tokenizer.token_to_id(TURN_END) is None:
            raise UsageError(
                f"This tokenizer has no {TURN_START} and {TURN_END}, so the model cannot chat."
            )
        self.tokenizer = tokenizer
        self.end = tokenizer.encode(f"{TURN_END}\n", allow_special=True)
        self._headers: dict[str, list[int]] = {}
        self.tool_call_format: ToolCallFormat | None = None
        self.variables: frozenset[str] = frozenset()
        self.ignores_system_prompt = False

    def encode(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> tuple[list[int], list[bool]]:
        """See `Chat.encode`."""
        with_template_calls(messages, lambda: None)  # refuses them
        contents = self.tokenizer.encode_batch([message["content"] for message in messages])
        ids: list[int] = []
        assistant_mask: list[bool] = []
        for message, content in zip(messages, contents, strict=True):
            header = self.turn_header(message["role"])
            ids += header + content + self.end
            by_model = is_learned(message)
            # The model generates the end of its turn, but not the line break after it.
            assistant_mask += [False] * len(header) + [by_model] * (len(content) + 1)
            assistant_mask += [False] * (len(self.end) - 1)
        if continue_final_message and messages:
            del ids[-len(self.end) :]
        elif add_generation_prompt:
            ids += self.turn_header("assistant")
        if add_generation_prompt or continue_final_message:
            assistant_mask = [False] * len(ids)
        return ids, assistant_mask

    def turn_header(self, role: str) -> list[int]:
        """Ids of the header of a turn of `role`."""
        if role not in self._headers:
            start = self.tokenizer.encode(TURN_START, allow_special=True)
            self._headers[role] = start + self.tokenizer.encode(f"{role}\n")
        return self._headers[role]


class JinjaChatTemplate:
    """A model's Jinja template, with the ids of its tokenizer."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.template = Template(
            tokenizer.special_tokens.chat_template or "", tokenizer.special_tokens.tokens
        )
        special_tokens = sorted(tokenizer.special_by_id.values(), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special_tokens)) or r"(?!)")
        # Parts of special tokens, which the template's text beside them could complete.
        halves = {(token[:i], token[i:]) for token in special_tokens for i in range(1, len(token))}
        self._starts = tuple({start for start, _ in halves})
        self._ends = tuple({end for _, end in halves})

    @cached_property
    def tool_call_format(self) -> ToolCallFormat | None:
        """How the model writes tool calls; None if the template renders no tools."""
        return find_tool_call_format(self.template.render)

    @property
    def variables(self) -> frozenset[str]:
        """Names that the template reads from outside, such as "enable_thinking"."""
        return self.template.variables

    def encode(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> tuple[list[int], list[bool]]:
        """See `Chat.encode`."""
        messages = with_template_calls(messages, lambda: self.tool_call_format)
        escaped = [self._escape_message(message) for message in messages]
        options = self._escape(list(tools)), self._escape(variables)

        def render(messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
            return self.template.render(messages, add_generation_prompt, *options)

        def render_marked(messages: Sequence[Message]) -> str:
            return self.template.render_marked(messages, False, *options)

        if continue_final_message and messages:
            text = without_turn_end(render, escaped)
        else:
            text = render(escaped, add_generation_prompt and not continue_final_message)
        ids, offsets = self._encode(text)
        if add_generation_prompt or continue_final_message:
            return ids, [False] * len(ids)
        plain = MARKERS.sub("", text)
        if self.template.has_generation_blocks:
            spans = generation_spans(render_marked, escaped)
        else:
            spans = turn_spans(render, escaped, plain, self._special, self._generation_prompt)
        return ids, overlapping(offsets, spans)

    @cached_property
    def ignores_system_prompt(self) -> bool:
        """True if the template leaves a system prompt out; False too if it rejects one."""
        probe = [{"role": "system", "content": PROBE}, {"role": "user", "content": "a"}]
        try:
            return PROBE not in self.template.render(probe)
        except UsageError:
            return False

    @cached_property
    def _generation_prompt(self) -> str:
        """What the template appends before a turn of the assistant; empty if nothing is."""
        probe = [{"role": "user", "content": "a"}]
        try:
            without, with_prompt = (self.template.render(probe, add) for add in (False, True))
        except UsageError:
            return ""
        return with_prompt[common_prefix_length(without, with_prompt) :]

    def _escape_message(self, message: Message) -> dict[str, Any]:
        """`message` with a marker inside everything that is or could become a special token."""
        if not isinstance(message.get("content"), str):
            raise UsageError("Each message needs text as its content.")
        return {name: self._escape(value, name != "role") for name, value in message.items()}

    def _escape(self, value: Any, ends: bool = True) -> Any:
        """The same for the texts in a JSON value; without `ends`, for whole tokens in it alone."""
        if isinstance(value, str):
            text = self._special.sub(_split_token, MARKERS.sub("\ufffd", clean(value)))
            return self._escape_ends(text) if ends else text
        if isinstance(value, Mapping):
            return {self._escape(key): self._escape(item) for key, item in value.items()}
        return [self._escape(item) for item in value] if isinstance(value, list) else value

    def _escape_ends(self, content: str) -> str:
        """`content` with markers where the text beside it could complete a special token."""
        core = content.strip()
        if core.endswith(self._starts):
            end = len(content.rstrip())
            content = content[:end] + BREAK + content[end:]
        if core.startswith(self._ends):
            start = len(content) - len(content.lstrip())
            content = content[:start] + BREAK + content[start:]
        return content

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of rendered text and their offsets in it, without its markers.

        Only the template's special tokens are special.
        """
        plain = text.replace(BREAK, "")
        tokens = [(found.start() - text.count(BREAK, 0, found.start()), found[0])
                  for found in self._special.finditer(text)]  # fmt: skip
        if tokens == [(found.start(), found[0]) for found in self._special.finditer(plain)]:
            return self.tokenizer.encode_with_offsets(plain, allow_special=True)
        # A message contains the text of a special token: encode it as plain text.
        segments, end = [], 0
        for start, token in tokens:
            segments += [(plain[end:start], False), (token, True)]
            end = start + len(token)
        segments.append((plain[end:], False))
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        begin = 0
        for segment, special in segments:
            segment_ids, segment_offsets = self.tokenizer.encode_with_offsets(segment, special)
            ids += segment_ids
            offsets += [(begin + start, begin + end) for start, end in segment_offsets]
            begin += len(segment)
        return ids, offsets


def without_turn_end(render: Callable[[list[Message]], str], messages: Sequence[Message]) -> str:
    """The rendered conversation up to the end of the last message."""
    last = {**messages[-1], "content": messages[-1]["content"] + SPAN_END + " "}
    text = render([*messages[:-1], last])
    end = text.rfind(SPAN_END)
    if end < 0:
        raise UsageError("A last message that the chat template changes cannot be continued.")
    # If the space is gone, the template trims messages: trim this one too.
    return text[:end] if text[end + 1 : end + 2] == " " else text[:end].rstrip()


def _split_token(found: re.Match[str]) -> str:
    """A special token with a marker inside, so that it is no longer one."""
    return found[0][0] + BREAK + found[0][1:]
