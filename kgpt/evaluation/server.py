"""The likelihoods of a model behind an OpenAI-compatible server: `echo` with `logprobs`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from kgpt.errors import KgptError, UsageError
from kgpt.evaluation.likelihood import Progress
from kgpt.evaluation.positions import by_position
from kgpt.evaluation.windows import Window

PROMPTS_AT_ONCE = 16
TIMEOUT_S = 600.0


class ServerScorer:
    """Scores windows by POST /v1/completions, as token ids with `echo: true`.

    Args:
        url: of the server, with or without /v1.
        context: tokens of a window; needed where the server does not state its own.
        model: its name there; the first that it lists when not given.

    Raises:
        KgptError: the server does not answer, or not with log-probabilities.
    """

    def __init__(self, url: str, context: int | None = None, model: str | None = None):
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        base = url.rstrip("/").removesuffix("/v1")
        self._http = httpx.Client(base_url=base, headers=headers, timeout=TIMEOUT_S)
        self.url = base
        entry = self._model_entry(model)
        self.model = entry["id"]
        limit = entry.get("max_model_len") or entry.get("kgpt", {}).get("context")
        if limit is None and context is None:
            raise UsageError(f"{base} does not state the model's context; give it with --context.")
        self._context = min(filter(None, (context, limit and limit - 1)))

    @property
    def context(self) -> int:
        return self._context

    def losses(
        self,
        windows: Sequence[Window],
        progress: Progress = lambda _: None,
        positions: np.ndarray | None = None,
    ) -> np.ndarray:
        """See `Scorer.losses`."""
        found: list[float] = []
        for first in range(0, len(windows), PROMPTS_AT_ONCE):
            batch = windows[first : first + PROMPTS_AT_ONCE]
            losses = self._batch(batch)
            found += [
                float(own @ window.weights) for window, own in zip(batch, losses, strict=True)
            ]
            if positions is not None:
                for row, (window, own) in enumerate(zip(batch, losses, strict=True), first):
                    positions[row] = by_position(own, window.weights)
            progress(sum(len(window) for window in batch))
        return np.asarray(found, "float64")

    def _batch(self, windows: Sequence[Window]) -> list[np.ndarray]:
        """The loss of each target of each window."""
        prompts = [[*w.inputs.tolist(), int(w.targets[-1])] for w in windows]
        body = {"model": self.model, "prompt": prompts, "max_tokens": 0, "echo": True}
        answer = self._call("POST", "/v1/completions", json=body | {"logprobs": 1})
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            logprobs = [choice["logprobs"]["token_logprobs"][1:] for choice in choices]
            losses = [-np.asarray(own, "float64") for own in logprobs]
            if [len(own) for own in losses] != [len(window) for window in windows]:
                raise ValueError("another number of tokens")
            return losses
        except (KeyError, TypeError, ValueError, IndexError):
            raise KgptError(
                f"{self.url} does not return the log-probabilities of a prompt (echo and logprobs "
                "of /v1/completions); evaluate the model's directory instead."
            ) from None

    def _model_entry(self, name: str | None) -> dict[str, Any]:
        listed = self._call("GET", "/v1/models").get("data") or [{}]
        entry = next((e for e in listed if name in (None, e.get("id"))), None)
        if entry is None or "id" not in entry:
            names = ", ".join(str(e.get("id")) for e in listed)
            raise UsageError(f"{self.url} has no model {name!r}; it has {names}.")
        return dict(entry)

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, **options)
            values = response.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise KgptError(
                f"{self.url} does not answer: {error or type(error).__name__}."
            ) from None
        if response.status_code != 200 or not isinstance(values, dict):
            message = values.get("error") if isinstance(values, dict) else None
            message = message.get("message", message) if isinstance(message, dict) else message
            text = str(message or response.status_code).rstrip(".")
            raise KgptError(f"{self.url} refuses the request: {text}.")
        return values
