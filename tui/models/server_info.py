"""What a server says of itself and of its model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Health:
    """The body of `/health`."""

    status: str
    progress: tuple[int, int] | None = None
    model: str = ""


@dataclass(frozen=True)
class ModelInfo:
    """The entry of `/v1/models` for the served model, and what its server can do.

    Attributes:
        is_kgpt: the server is kgpt's own; others neither go on with an answer nor predict tokens.
        logprobs: the server takes requests for log-probabilities.
        sampling: the model's own defaults.
    """

    id: str
    context: int = 0
    chat: bool = True
    parameters: int = 0
    backend: str = ""
    is_kgpt: bool = True
    logprobs: bool = True
    sampling: dict[str, Any] = field(default_factory=dict)
