"""A prompt whose log-probabilities, embedding or labels are wanted, and the result. No Keras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kgpt.errors import KgptError, UsageError

if TYPE_CHECKING:
    from kgpt.generation.adapters import LoadedAdapter

ForwardTask = Literal["logprobs", "embedding", "classification"]
ForwardEnd = Literal["done", "cancelled", "deadline", "error"]


@dataclass(frozen=True)
class PromptLogprobs:
    """What the model expects at each position of a prompt of L tokens.

    Attributes:
        logprobs: (L - 1,) float32, log-probabilities of the tokens after the first.
        top_ids: (L, K) int32, the K most likely tokens after each of the prompt's, best first.
        top_logprobs: (L, K) float32, their log-probabilities.
    """

    logprobs: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray


@dataclass(eq=False)
class ForwardJob:
    """One prompt to run through the model.

    Attributes:
        token_ids: of the prompt, at least one.
        task: "logprobs" for `PromptLogprobs`; "embedding" for the mean (D,) of the final hidden
            states, of length 1; "classification" for the probabilities (labels,) of a classifier.
        top_logprobs: candidates at each position, at most 20.
        on_end: called once, in the engine's thread, with the job.
        deadline: by `time.monotonic`.
        adapter: runs the prompt; None is the base model.
        ended: how it ended; None before.
        result: a `PromptLogprobs`, an embedding or probabilities, if it ended with "done".
    """

    token_ids: Sequence[int]
    task: ForwardTask
    top_logprobs: int = 0
    on_end: Callable[[ForwardJob], None] = lambda job: None
    deadline: float | None = None
    adapter: LoadedAdapter | None = None
    cancelled: bool = False
    ended: ForwardEnd | None = None
    result: Any = None
    error: KgptError | None = None

    def check(self, vocab_size: int, max_context: int) -> None:
        """Raise `UsageError` if the model cannot run the prompt."""
        ids = np.asarray(self.token_ids, dtype="int64")
        if ids.size == 0:
            raise UsageError("The text is empty; give at least one token.")
        if ids.min() < 0 or ids.max() >= vocab_size:
            raise UsageError(f"Token ids must lie from 0 to {vocab_size - 1}.")
        if ids.size > max_context:
            raise UsageError(
                f"The text has {ids.size} tokens, but the model's context is {max_context}; "
                "shorten it."
            )

    @property
    def wants_many(self) -> bool:
        """Whether more than the most likely token is wanted at each position."""
        return self.top_logprobs > 1

    def is_like(self, other: ForwardJob) -> bool:
        """Whether the two are computed by one program, and so in one batch."""
        return (self.task, self.wants_many) == (other.task, other.wants_many)

    def end(self, how: ForwardEnd) -> None:
        self.ended = how
        self.on_end(self)
