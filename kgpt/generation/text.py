"""Text in, text out: a model directory that completes prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgpt.config import SamplingConfig
from kgpt.generation.decode import Decoder
from kgpt.model.directory import load_model, load_sampling
from kgpt.text.tokenizer import TURN_END, Tokenizer


@dataclass
class Completion:
    """A continuation and why it ended: "stop" or "length"."""

    prompt: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "text": self.text,
            "finish_reason": self.finish_reason,
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
            },
        }


class TextGenerator:
    """A model, its tokenizer and its default sampling, from a model directory."""

    def __init__(self, folder: Path):
        self.tokenizer = Tokenizer.load(folder)
        self.defaults = load_sampling(folder)
        self.decoder = Decoder(load_model(folder))
        ends = (self.tokenizer.end_of_text, self.tokenizer.id_of(TURN_END))
        self.stop_ids = {end for end in ends if end is not None}

    def complete(
        self,
        prompts: Sequence[str],
        config: SamplingConfig,
        on_text: Callable[[int, str], None] | None = None,
    ) -> list[Completion]:
        """Continue each prompt; `on_text` is called with (row, text) as text comes."""
        start = [self.tokenizer.end_of_text or 0]  # an empty prompt begins a new document
        ids = [self.tokenizer.encode(prompt) or start for prompt in prompts]
        return self.complete_ids(ids, config, prompts, on_text)

    def complete_ids(self, ids, config, prompts, on_text=None) -> list[Completion]:
        streams = [self.tokenizer.stream() for _ in ids]

        def on_token(row: int, token: int) -> None:
            if on_text is not None and (piece := streams[row].feed(token)):
                on_text(row, piece)

        written = self.decoder.generate(ids, config, self.stop_ids, on_token)
        completions = []
        for prompt, prompt_ids, new in zip(prompts, ids, written, strict=True):
            ended = bool(new) and new[-1] in self.stop_ids
            text, cut = _until(self.tokenizer.decode(new, skip_special=True), config.stop)
            reason = "stop" if ended or cut else "length"
            completions.append(Completion(prompt, text, reason, len(prompt_ids), len(new)))
        return completions


def _until(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """`text` up to the first of `stops`, and whether there was one."""
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)
