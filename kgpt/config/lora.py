"""The options of LoRA and DoRA adapters."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from kgpt.config.section import Section


def _as_list(value: Any) -> Any:
    """One module alone is a list of one."""
    return [value] if isinstance(value, str) and value != "all-linear" else value


class LoraConfig(Section):
    """LoRA (Hu et al., 2021): ``W x + scaling * B A x``, W frozen, A (rank, in), B (out, rank).

    The names of modules are those of the model in Hugging Face's format, as PEFT writes them:
    "q_proj" is every module of that name, "model.layers.0.self_attn.q_proj" is one, and
    ``"model.layers.[01].*"`` is a pattern with the wildcards ``*``, ``?`` and ``[...]``.
    """

    rank: int = Field(8, ge=1, description="Rank of each adapter.")
    alpha: float = Field(
        16.0, gt=0, description="The adapter's output is multiplied by alpha / rank."
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout on the input of the adapters while training."
    )
    target_modules: Annotated[Literal["all-linear"] | list[str], BeforeValidator(_as_list)] = Field(
        "all-linear",
        description="Modules that get an adapter, by name or pattern; all-linear: every matrix "
        "product of the blocks.",
    )
    rslora: bool = Field(
        False, description="Multiply by alpha / sqrt(rank) instead (Kalajdzievski, 2023)."
    )
    dora: bool = Field(
        False, description="Also train the norm of each output's weights (DoRA, Liu et al., 2024)."
    )
    rank_pattern: dict[str, int] = Field(
        default_factory=dict, description="Another rank for some modules, by name or pattern."
    )
    alpha_pattern: dict[str, float] = Field(
        default_factory=dict, description="Another alpha for some modules, by name or pattern."
    )
