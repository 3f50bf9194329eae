"""Stop strings, however the text is cut into pieces."""

from hypothesis import given
from hypothesis import strategies as st

from kgpt.generation.detokenize import StopSequenceMatcher

LETTERS = st.text("ab", max_size=12)


@given(st.lists(LETTERS), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_what_is_shown_ends_at_the_first_stop(pieces, stops):
    scanner, shown = StopSequenceMatcher(stops), ""
    for piece in pieces:
        shown += scanner.feed(piece)
        whole = "".join(pieces)
        assert whole.startswith(shown)
        assert not any(stop in shown for stop in stops)
    shown += scanner.finish() if scanner.matched is None else ""
    text = "".join(pieces)
    if scanner.matched is None:
        assert shown == text
    else:
        assert text.startswith(shown + scanner.matched)
        assert not any(stop in shown for stop in stops)


def test_nothing_is_buffered_without_stop_sequences():
    assert StopSequenceMatcher([]).feed("text") == "text"
    assert StopSequenceMatcher([""]).feed("text") == "text"


def test_half_a_stop_at_the_end_of_a_text_is_text():
    scanner = StopSequenceMatcher(["END"])
    assert scanner.feed("the EN") + scanner.finish() == "the EN"
