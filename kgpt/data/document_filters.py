"""Filters of documents by length, regular expressions and language."""

from __future__ import annotations

import re
from collections.abc import Callable

from kgpt.config import DocumentSelectionConfig
from kgpt.errors import UsageError

LANGUAGE_CHARACTERS = 4096  # of a text, from which its language is recognized

Filter = Callable[[str], bool]  # whether a text is left out


class DocumentFilters:
    """The filters of a `DocumentSelectionConfig`; it does not deduplicate.

    Raises:
        UsageError: a package is missing, or a language is unknown.
    """

    def __init__(self, config: DocumentSelectionConfig):
        self._filters = list(_filters(config))

    def __bool__(self) -> bool:
        return bool(self._filters)

    def rule_against(self, text: str) -> str | None:
        """The first rule that leaves `text` out, as a flag; None if all keep it."""
        return next((rule for rule, leaves_out in self._filters if leaves_out(text)), None)


def _filters(config: DocumentSelectionConfig) -> list[tuple[str, Filter]]:
    """Each rule with its filter, in the order in which they are applied."""
    found: list[tuple[str, Filter]] = []
    if (least := config.min_chars) is not None:
        found.append((f"--min-chars {least}", lambda text: len(text) < least))
    if (most := config.max_chars) is not None:
        found.append((f"--max-chars {most}", lambda text: len(text) > most))
    found += [(f"--keep-regex {keep}", _lacks(re.compile(keep))) for keep in config.keep_regex]
    found += [(f"--drop-regex {drop}", _has(re.compile(drop))) for drop in config.drop_regex]
    if config.language:
        found.append((config.language_rule, _is_in_another_language(config.language)))
    return found


def _has(expression: re.Pattern[str]) -> Filter:
    return lambda text: expression.search(text) is not None


def _lacks(expression: re.Pattern[str]) -> Filter:
    return lambda text: expression.search(text) is None


def _is_in_another_language(languages: list[str]) -> Filter:
    try:
        import py3langid
    except ImportError:
        raise UsageError(
            "--language needs the package py3langid; install it with "
            '`pip install "kgpt[language]"`.'
        ) from None
    known = {language for language, _ in py3langid.rank("")}
    for language in languages:
        if language not in known:
            raise UsageError(
                f"--language {language} is not known; the languages are {', '.join(sorted(known))}."
            )
    return lambda text: py3langid.classify(text[:LANGUAGE_CHARACTERS])[0] not in languages
