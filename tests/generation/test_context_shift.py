"""Conversations longer than the context lose their oldest turns, whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.generation.context_shift import encode_chat
from kgpt.text.chat_template import ChatMLTemplate
from kgpt.text.tokenizer import Tokenizer

TEMPLATE = ChatMLTemplate(Tokenizer.of_bytes())
SYSTEM = {"role": "system", "content": "Be brief."}


def chat(*lengths: int, system: bool = True) -> list[dict[str, str]]:
    """Turns of the user and the assistant with so many letters."""
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": "abc"[i % 3] * n} for i, n in enumerate(lengths)]
    return [SYSTEM, *turns] if system else turns


def whole(messages: list[dict[str, str]], unfinished: bool = False) -> list[int]:
    return TEMPLATE.encode(messages, not unfinished, unfinished)[0]


def test_all_of_it_is_kept_where_it_fits() -> None:
    messages = chat(5, 5, 5)
    ids = whole(messages)
    assert encode_chat(TEMPLATE, messages, len(ids)) == (ids, 0)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.booleans(), st.integers(90, 400))
def test_what_is_kept_is_the_system_message_and_the_newest_turns(
    lengths: list[int], system: bool, limit: int
) -> None:
    messages = chat(*lengths[: len(lengths) // 2 * 2 + len(lengths) % 2], system=system)
    if messages[-1]["role"] == "assistant":
        messages.pop()
    if messages[-1]["role"] != "user":
        return
    ids, left_out = encode_chat(TEMPLATE, messages, limit)
    head = 1 if system else 0
    assert ids == whole(messages[:head] + messages[head + left_out :])
    assert len(ids) <= limit and messages[head + left_out]["role"] == "user"
    if left_out:  # one turn more would not have fitted
        assert len(whole(messages[:head] + messages[head + left_out - 2 :])) > limit


@pytest.mark.parametrize("limit", [120, 90])
def test_a_long_answer_that_goes_on_keeps_its_end(limit: int) -> None:
    messages = chat(9, 9, 9, 300)
    ids, left_out = encode_chat(TEMPLATE, messages, limit, unfinished=True)
    system = TEMPLATE.encode([SYSTEM])[0]
    assert len(ids) == limit and ids[: len(system)] == system
    assert ids[-20:] == whole(messages, True)[-20:] and left_out == 3


def test_an_answer_goes_on_without_the_turns_before_its_question() -> None:
    messages = chat(60, 60, 9, 30)
    kept = [messages[0], *messages[3:]]
    ids, left_out = encode_chat(TEMPLATE, messages, 120, unfinished=True)
    assert (ids, left_out) == (whole(kept, True), 2)
