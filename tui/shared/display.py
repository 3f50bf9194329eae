"""Text from models, files and users, sanitized for the terminal.

Control characters, changes of text direction and characters whose width terminals disagree about
are replaced. Only what is displayed is sanitized, never what is stored or copied.
"""

from __future__ import annotations

import re
import unicodedata

MARKS = 4  # combining marks displayed on one letter; more would overlap the lines above
_PICTURES = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "\u2421"}
_KEPT = {ord("\n"): "\n", ord("\t"): "    "}
_TO_LINE_BREAK = str.maketrans({"\u2028": "\n", "\u2029": "\n", "\x85": "\n"})
_PLAIN = re.compile(r"[\n -~]*")
# Selectors and modifiers that terminals and Textual measure differently.
_JOINED = {*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0), *range(0x1F3FB, 0x1F400)}
_BIDI = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}

# Escape sequences: CSI, then strings such as OSC, then those of two or three characters.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def pasteable(text: str, in_one_line: bool = False) -> str:
    """Pasted `text` without escape sequences and control characters, which editors misplace.

    >>> pasteable("\\x1b[1mbold\\x1b[0m\\r\\nnext\\x07", in_one_line=True)
    'bold next'
    """
    text = _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _CONTROLS.sub("", text)
    return " ".join(text.split("\n")).strip() if in_one_line else text


def sanitize(text: str) -> str:
    """`text` without anything that could affect the terminal; tabs become spaces.

    >>> sanitize("a\\x1b[31mred\\u202e\\u200b!")
    'a␛[31mred�!'
    """
    if _PLAIN.fullmatch(text):
        return text
    text = text.replace("\r\n", "\n").translate(_TO_LINE_BREAK)
    kept: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= MARKS:
            kept.append(_visible(character))
    return "".join(kept)


def one_line(text: str, length: int = 80) -> str:
    """The beginning of `text` as one line of at most `length` characters.

    >>> one_line("To be,\\n or not  to be", 12)
    'To be, or n…'
    """
    line = " ".join(sanitize(text[: 8 * length]).split())
    return line if len(line) <= length else line[: length - 1] + "…"


def token_text(text: str) -> str:
    """A token with its spaces and line breaks made visible.

    >>> token_text(" the\\n")
    '·the⏎'
    """
    return sanitize(text.replace("\n", "⏎").replace("\t", "⇥")).replace(" ", "·") or "∅"


def same_length(text: str) -> str:
    """`text` sanitized character by character, for editors that rely on its length.

    >>> same_length("a\x1b[31m\u202eb")
    'a␛[31m�b'
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(c if c == "\t" else (_visible(c) or "\ufffd")[:1] for c in text)


def _visible(character: str) -> str:
    code = ord(character)
    if code < 0x7F or code == 0x7F:
        return _KEPT.get(code) or _PICTURES.get(code) or character
    if code in _BIDI:
        return "\ufffd"
    if code in _JOINED:
        return ""
    category = unicodedata.category(character)
    if category in ("Cc", "Cs", "Cn", "Co"):
        return "\ufffd"
    return "" if category in ("Cf", "Me") else character
