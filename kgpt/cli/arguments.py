"""The words of a command line, before cyclopts reads them."""

from __future__ import annotations

from collections.abc import Callable

from cyclopts import App
from cyclopts.utils import UNSET


def attach_values(app: App, words: list[str]) -> list[str]:
    """Join an option and its value by "=" where the value begins with "-".

    An option that takes a value takes the next word, whatever it is, unless that is an option of
    the same command: `--prompt "- item"` becomes `--prompt=- item`. Cyclopts by itself takes only
    negative numbers for values.
    """
    names, apps, rest = app.parse_commands(words)
    if not rest or apps[-1].default_command is None or names[-1].startswith("-"):
        return words  # no options, no command, or --help
    takes_value, is_option = _options(apps[-1])
    joined = words[: len(words) - len(rest)]
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*joined, word, *rest]
        if takes_value(word) and rest:
            value = rest.pop(0)
            if value.startswith("-") and not is_option(value.partition("=")[0]):
                word = f"{word}={value}"
            else:
                rest.insert(0, value)
        joined.append(word)
    return joined


def _options(command: App) -> tuple[Callable[[str], bool], Callable[[str], bool]]:
    """Does a word name an option of `command` that takes a value, or any option of it?"""
    collection = command.assemble_argument_collection()
    others = (*command.help_flags, *command.version_flags, "--debug")

    def implied(word: str) -> object:
        try:
            return collection.match(word)[2]
        except ValueError:
            return None

    def is_option(word: str) -> bool:
        return word in others or (word.startswith("--") and implied(word) is not None)

    return lambda word: is_option(word) and implied(word) is UNSET, is_option
