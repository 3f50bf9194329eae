"""Sanitized text has no control characters, no direction changes and no ambiguous widths."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.content import Content

from kgpt_tui.shared.display import MARKS, one_line, same_length, sanitize, token_text

NASTY = st.text(
    st.one_of(
        st.characters(codec=None),
        st.sampled_from("\x1b\x07\x9b\u202e\u2066\u200b\u200d\ufeff\u0301\r\n\t🦊👍🏽[/]\ud800"),
    )
)


@given(NASTY)
def test_no_control_or_direction_character_remains(text):
    for character in sanitize(text):
        assert character == "\n" or unicodedata.category(character) not in (
            "Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp",
        )  # fmt: skip


@given(NASTY)
def test_sanitized_text_can_be_drawn_and_encoded(text):
    assert all(line.cell_length <= 20 for line in Content(sanitize(text)).fold(20))
    sanitize(text).encode("utf-8")


@given(NASTY)
def test_sanitizing_is_idempotent(text):
    assert sanitize(sanitize(text)) == sanitize(text)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_plain_text_is_untouched(text):
    assert sanitize(text) == text


@given(NASTY)
def test_same_length_keeps_the_length(text):
    assert len(same_length(text)) == len(text)
    assert not set(same_length(text)) & set("\x1b\x9b\u202e\r")


@given(NASTY, st.integers(2, 40))
def test_one_line_is_one_short_line(text, length):
    line = one_line(text, length)
    assert len(line) <= length and "\n" not in line


@given(NASTY)
def test_a_token_is_never_invisible(text):
    assert token_text(text).strip() or not text.strip()


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("\x1b[2J", "␛[2J"),
        ("a\r\nb", "a\nb"),
        ("a\u2028b", "a\nb"),
        ("e" + "\u0301" * 50, "e" + "\u0301" * MARKS),
        ("👍🏽", "👍"),
        ("שלום", "שלום"),
        ("\u202edcba", "�dcba"),
    ],
)
def test_examples(text, seen):
    assert sanitize(text) == seen
