"""Make untrusted text safe to print: control characters become visible symbols."""

from __future__ import annotations

import sys
import unicodedata

KEPT = "\n\t"


def printable(text: str) -> str:
    """`text` with control characters, such as escape, replaced by visible symbols; line breaks and
    tabs stay.

    >>> printable("a\\x1b[2Jb")
    'a␛[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(map(_shown, text))


def for_output(text: str) -> str:
    """`text` for standard output: `printable` on a terminal, unchanged into files and pipes."""
    return printable(text) if sys.stdout.isatty() else text


def _shown(character: str) -> str:
    code = ord(character)
    if character in KEPT or unicodedata.category(character) != "Cc":
        return character
    return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else "\ufffd"
