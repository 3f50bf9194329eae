"""Standard input and output of every command, whatever their encoding."""

from __future__ import annotations

import codecs
import io
import sys

from kgpt.errors import UsageError

ESCAPE = "kgpt.escape"


def escape_what_cannot_be_shown() -> None:
    """Print characters that an output's encoding lacks as "\\u2192", which JSON reads too.

    Bytes of standard input that its encoding does not know are kept for `check_text` to refuse.
    """
    codecs.register_error(ESCAPE, _escape)
    for stream, errors in (
        (sys.stdout, ESCAPE), (sys.stderr, ESCAPE), (sys.stdin, "surrogateescape"),
    ):  # fmt: skip
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _escape(error: UnicodeError) -> tuple[str, int]:
    """An error handler of `codecs`: each character as its UTF-16 code units."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    escaped = "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
    return escaped, error.end


def read_standard_input() -> str:
    """All of standard input, without a byte-order mark; a `UsageError` if it is not text."""
    return check_text(sys.stdin.read(), "Standard input", sys.stdin.encoding).removeprefix("\ufeff")


def check_text(text: str, name: str, encoding: str | None = None) -> str:
    """`text`; a `UsageError` if it holds bytes that are not text in its encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        expected = (encoding or sys.getfilesystemencoding()).upper()
        raise UsageError(
            f"{name} is not {expected} text; convert it, as with `iconv -t utf-8`."
        ) from None
    return text
