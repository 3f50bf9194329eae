"""Which documents become part of a data set: filters, and the removal of duplicates."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from kgpt.config.section import Section, TextList

Dedup = Literal["none", "exact", "minhash"]


class DocumentSelectionConfig(Section):
    """Rules that leave documents out, in this order; a document that two rule out counts for one.

    The text of a conversation is that of its messages, a line break between two.
    """

    min_chars: int | None = Field(
        None, ge=0, description="Leave out documents with fewer characters."
    )
    max_chars: int | None = Field(
        None, ge=1, description="Leave out documents with more characters."
    )
    keep_regex: TextList = Field(
        [],
        description="Leave out documents in which this regular expression is not found; may be "
        "repeated.",
    )
    drop_regex: TextList = Field(
        [],
        description="Leave out documents in which this regular expression is found; may be "
        "repeated.",
    )
    language: TextList = Field(
        [],
        description="Leave out documents in other languages; an ISO 639-1 code such as en; may be "
        'repeated. Needs the extra "language".',
    )
    dedup: Dedup = Field(
        "none",
        description="Leave out duplicates of an earlier document: exact ones, or with minhash "
        'those with nearly the same sets of five words in a row, which needs the extra "dedup".',
    )
    dedup_threshold: float = Field(
        0.8, gt=0, le=1, description="Jaccard similarity from which minhash takes two for the same."
    )

    @field_validator("keep_regex", "drop_regex")
    @classmethod
    def _are_expressions(cls, expressions: list[str]) -> list[str]:
        for expression in expressions:
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(f"{expression!r} is no regular expression: {error}") from None
        return expressions

    @property
    def rules(self) -> list[str]:
        """The rules that are given, as flags: ["--min-chars 20", "--dedup exact"]."""
        lengths = [("--min-chars", self.min_chars), ("--max-chars", self.max_chars)]
        given = [f"{flag} {limit}" for flag, limit in lengths if limit is not None]
        given += [f"--keep-regex {expression}" for expression in self.keep_regex]
        given += [f"--drop-regex {expression}" for expression in self.drop_regex]
        given += [self.language_rule] if self.language else []
        return [*given, self.dedup_rule] if self.dedup != "none" else given

    @property
    def language_rule(self) -> str:
        return " ".join(f"--language {language}" for language in self.language)

    @property
    def dedup_rule(self) -> str:
        threshold = f" --dedup-threshold {self.dedup_threshold}" * (self.dedup == "minhash")
        return f"--dedup {self.dedup}{threshold}"
