"""Rows for preference optimization and for rewards: pairs, labelled completions, prompts.

    prompt, chosen, rejected     DPO, IPO, ORPO
    prompt, completion, label    KTO: label is true for a good completion
    prompt                       GRPO: the other fields of the row go to the reward functions

Each of prompt, chosen, rejected and completion is a text or a list of messages, as in trl. Where
`chosen` and `rejected` are whole conversations, the messages that both begin with are the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from kgpt.conversations import Message, messages_of_row, parse_messages
from kgpt.data.hub import HubOptions
from kgpt.data.invalid_rows import InvalidRows
from kgpt.data.source_files import SourceFiles
from kgpt.errors import DataError, UsageError
from kgpt.text.chat_template import Chat
from kgpt.text.tokenizer import Tokenizer

Content = str | list[Message]  # a text, or messages
Parsed = TypeVar("Parsed")
LABELS = {"true": True, "1": True, "false": False, "0": False}  # of cells of a .csv file


@dataclass(frozen=True)
class PreferencePair:
    """A prompt with a better and a worse completion: all texts, or all lists of messages."""

    prompt: Content
    chosen: Content
    rejected: Content


@dataclass(frozen=True)
class LabeledCompletion:
    """A prompt and a completion that is good or bad: both texts, or both lists of messages."""

    prompt: Content
    completion: Content
    label: bool


@dataclass(frozen=True)
class PromptRow:
    """A prompt; `columns` are the other fields of its row, such as the right answer."""

    prompt: Content
    columns: dict[str, Any] = field(default_factory=dict)


class EncodedPair(NamedTuple):
    """Token ids of a pair: the prompt is followed by `chosen_ids` or by `rejected_ids`."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


class EncodedCompletion(NamedTuple):
    """Token ids of a prompt and its completion."""

    prompt_ids: list[int]
    completion_ids: list[int]


# -- reading --------------------------------------------------------------------------------


def read_preferences(
    sources: Sequence[str], invalid: InvalidRows | None = None, hub: HubOptions | None = None
) -> Iterator[PreferencePair]:
    """The pairs in files of rows; see `kgpt.data.source_files.SourceFiles` for `sources` and `hub`.

    Args:
        invalid: takes the rows that are no pairs; None refuses them.

    Raises:
        DataError: a row is no pair and not skipped; the sentence names file and line.
    """
    return _read(sources, parse_preference, invalid, hub)


def read_labeled(
    sources: Sequence[str], invalid: InvalidRows | None = None, hub: HubOptions | None = None
) -> Iterator[LabeledCompletion]:
    """The labelled completions in files of rows; arguments as of `read_preferences`."""
    return _read(sources, parse_labeled, invalid, hub)


def read_prompts(
    sources: Sequence[str], invalid: InvalidRows | None = None, hub: HubOptions | None = None
) -> Iterator[PromptRow]:
    """The prompts in files of rows; arguments as of `read_preferences`."""
    return _read(sources, parse_prompt, invalid, hub)


def _read(
    sources: Sequence[str],
    parse: Callable[[Mapping[str, Any]], Parsed],
    invalid: InvalidRows | None,
    hub: HubOptions | None,
) -> Iterator[Parsed]:
    invalid = invalid or InvalidRows()
    for row, where, _ in SourceFiles(sources, hub=hub).rows(invalid):
        try:
            parsed = parse(row)
        except ValueError as error:
            invalid.add(DataError(f"{where}: {error}."))
        else:
            yield parsed


def parse_preference(row: Mapping[str, Any]) -> PreferencePair:
    """The pair in a row.

    Raises:
        ValueError: the row is no pair; the text says why.
    """
    chosen, rejected = (_content(row, name) for name in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise ValueError("chosen and rejected must both be texts, or both lists of messages")
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same")
    prompt, begins = _shared_prompt(chosen, rejected) or (_prompt(row), 0)
    if isinstance(prompt, str) and isinstance(chosen, str):
        return PreferencePair(prompt, chosen, rejected)
    completions = _completion(chosen[begins:]), _completion(rejected[begins:])
    return PreferencePair(as_messages(prompt), *completions)


def _shared_prompt(chosen: Content, rejected: Content) -> tuple[Content, int] | None:
    """The messages that two whole conversations begin with, and their number."""
    if isinstance(chosen, str) or isinstance(rejected, str) or chosen[0]["role"] == "assistant":
        return None
    size = _common_length(chosen, rejected)
    while size and chosen[size - 1]["role"] == "assistant":  # answers that begin alike
        size -= 1
    return _checked_prompt(chosen[:size]), size


def parse_labeled(row: Mapping[str, Any]) -> LabeledCompletion:
    """The labelled completion in a row.

    Raises:
        ValueError: the row has no prompt, completion or label; the text says why.
    """
    prompt, completion, label = _prompt(row), _content(row, "completion"), row.get("label")
    if isinstance(label, str):
        label = LABELS.get(label.strip().lower(), label)
    if label is None or label not in (True, False):
        raise ValueError(f"label must be true or false, not {label!r}")
    if isinstance(prompt, list) or isinstance(completion, list):
        prompt, completion = as_messages(prompt), _completion(completion)
    return LabeledCompletion(prompt, completion, bool(label))


def parse_prompt(row: Mapping[str, Any]) -> PromptRow:
    """The prompt in a row, or in a conversation: all before the assistant's last turn.

    Raises:
        ValueError: the row has no prompt; the text says why.
    """
    if row.get("prompt") is not None:
        used = ("prompt", "system")
        return PromptRow(_prompt(row), {k: v for k, v in row.items() if k not in used})
    found = messages_of_row(row)
    if found is None:
        raise ValueError(f"there is no prompt (its fields: {', '.join(row)})")
    messages = found[1]
    while messages and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    return PromptRow(_checked_prompt(messages), dict(row))


def as_messages(prompt: Content) -> list[Message]:
    """A prompt as messages: a text is what the user says."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _prompt(row: Mapping[str, Any]) -> Content:
    """The prompt of a row, after its system prompt, if any."""
    prompt = _content(row, "prompt")
    system = row.get("system")
    if isinstance(system, str) and system:
        prompt = [{"role": "system", "content": system}, *as_messages(prompt)]
    return prompt if isinstance(prompt, str) else _checked_prompt(prompt)


def _checked_prompt(messages: list[Message]) -> list[Message]:
    if not messages or messages[-1]["role"] != "user":
        raise ValueError("the last message of a prompt must be one of the user")
    return messages


def _completion(completion: Content) -> list[Message]:
    """A completion as messages, of which the first and the last are the assistant's."""
    if isinstance(completion, str):
        return [{"role": "assistant", "content": completion}]
    if not completion or {completion[0]["role"], completion[-1]["role"]} != {"assistant"}:
        raise ValueError("a completion must begin and end with a message of the assistant")
    return completion


def _content(row: Mapping[str, Any], name: str) -> Content:
    """The text or the messages in a field of a row."""
    value = row.get(name)
    if value is None:
        raise ValueError(f"there is no {name} (its fields: {', '.join(row)})")
    if not isinstance(value, str | list):
        kind = type(value).__name__
        raise ValueError(f"{name} must be a text or a list of messages, not {kind}")
    content = parse_messages(value) if isinstance(value, list) else value
    texts = [content] if isinstance(content, str) else [m["content"] for m in content]
    if not all(text.strip() for text in texts):
        raise ValueError(f"{name} is empty" if isinstance(content, str) else
                         f"a message of {name} is empty")  # fmt: skip
    return content


# -- encoding -------------------------------------------------------------------------------


def encode_pair(
    pair: PreferencePair, tokenizer: Tokenizer, template: Chat | None, max_length: int | None = None
) -> EncodedPair:
    """Token ids of a pair; see `encode_completion`. Both completions follow the same prompt."""
    prompt = encode_prompt(pair.prompt, tokenizer, template)
    chosen = _encode_whole(pair.prompt, pair.chosen, tokenizer, template)
    rejected = _encode_whole(pair.prompt, pair.rejected, tokenizer, template)
    size = min(_common_length(prompt, chosen), _common_length(prompt, rejected))
    return EncodedPair(chosen[:size][:max_length], chosen[size:max_length],
                       rejected[size:max_length])  # fmt: skip


def encode_completion(
    prompt: Content,
    completion: Content,
    tokenizer: Tokenizer,
    template: Chat | None,
    max_length: int | None = None,
) -> EncodedCompletion:
    """Token ids of a prompt and its completion.

    As in trl, the prompt ends with the header of the assistant's turn, and the completion with the
    end of that turn; without a template both are plain text, and an end-of-text token follows. A
    token that begins in the prompt's text and ends in the completion's belongs to the completion.

    Args:
        template: the model's chat template, in which a text is a message; None for plain text.
        max_length: prompt and completion are cut after so many tokens together (trl's
            "keep_start"). A completion of which nothing is left is empty.

    Raises:
        UsageError: the prompt has messages and there is no template, or the template rejects them.
    """
    prompt_ids = encode_prompt(prompt, tokenizer, template)
    whole = _encode_whole(prompt, completion, tokenizer, template)
    size = _common_length(prompt_ids, whole)
    return EncodedCompletion(whole[:size][:max_length], whole[size:max_length])


def encode_prompt(prompt: Content, tokenizer: Tokenizer, template: Chat | None) -> list[int]:
    """Token ids that a model continues with its completion."""
    if template is None:
        return tokenizer.encode_prompt(_plain(prompt))
    return template.encode(as_messages(prompt), add_generation_prompt=True)[0]


def _encode_whole(
    prompt: Content, completion: Content, tokenizer: Tokenizer, template: Chat | None
) -> list[int]:
    if template is None:
        ids = tokenizer.encode_prompt(_plain(prompt) + _plain(completion))
        return ids if tokenizer.eos_id is None else [*ids, tokenizer.eos_id]
    ids, by_model = template.encode([*as_messages(prompt), *_completion(completion)])
    # Without what the template renders after the end of the last turn.
    return ids[: len(by_model) - by_model[::-1].index(True)] if any(by_model) else ids


def _plain(content: Content) -> str:
    if isinstance(content, str):
        return content
    raise UsageError(
        "The model has no chat template, so prompts and completions must be texts, not messages."
    )


def _common_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many tokens or messages two sequences begin with alike."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
