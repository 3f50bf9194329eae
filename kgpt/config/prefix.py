"""The options of prefix tuning."""

from __future__ import annotations

from pydantic import Field

from kgpt.config.section import Section


class PrefixConfig(Section):
    """Prefix tuning (Li & Liang, 2021): each layer attends to trained keys and values as well.

    They stand before every text like those of tokens, and take as many of the model's positions.
    """

    num_virtual_tokens: int = Field(
        20, ge=1, description="Keys and values of the prefix in each layer."
    )
