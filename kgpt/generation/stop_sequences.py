"""Stop strings: found across token boundaries, and never shown in part."""

from __future__ import annotations

from collections.abc import Sequence


class StopSequenceMatcher:
    """Passes text on until one of `stops` appears; holds back what may be its beginning.

    >>> scanner = StopSequenceMatcher(["END"])
    >>> scanner.feed("the E"), scanner.feed("Nd EN"), scanner.feed("D!"), scanner.met
    ('the ', 'ENd ', '', 'END')
    """

    def __init__(self, stops: Sequence[str]):
        self.stops = [stop for stop in stops if stop]
        self.met: str | None = None
        self._held = ""

    def feed(self, text: str) -> str:
        """What of the text so far may be shown now."""
        if self.met is not None:
            return ""
        text = self._held + text
        places = [(place, stop) for stop in self.stops if (place := text.find(stop)) >= 0]
        if places:
            place, self.met = min(places, key=lambda found: found[0])
            self._held = ""
            return text[:place]
        keep = max((_overlap(text, stop) for stop in self.stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
