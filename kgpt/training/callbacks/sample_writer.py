"""Text generated during training, written to samples.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kgpt import backend
from kgpt.config import SamplingConfig
from kgpt.generation.scheduler import generate
from kgpt.generation.sequence import Request
from kgpt.text.tokenizer import Tokenizer
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.step_callback import Logs, StepCallback
from kgpt.training.optimizers import swap_in_ema_weights
from kgpt.training.stored_weights import gpt_of

SampleRow = dict[str, Any]


class SampleWriter(StepCallback):
    """Continues the prompts every N steps and writes samples.jsonl.

    Args:
        tokenizer: of the data set.
        prompts: what the samples begin with.
        sampling: sampling parameters; if they have no seed, the step is the seed.
        every: steps between samples; 0 samples on request only.
        status: shows "sampling" meanwhile, and does not count the time as training.
        on_sample: called with each row, after it is written.
        encode: a prompt as token ids; the tokenizer's `encode` when not given.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Sequence[str],
        sampling: SamplingConfig,
        every: int,
        status: StatusWriter | None = None,
        on_sample: Callable[[SampleRow], None] | None = None,
        encode: Callable[[str], list[int]] | None = None,
    ):
        super().__init__()
        self.tokenizer, self.prompts, self.sampling = tokenizer, list(prompts), sampling
        self.every, self.on_sample = every, on_sample
        self.encode = encode or tokenizer.encode
        self.status = status or StatusWriter(None)

    def on_step_end(self, step: int, logs: Logs) -> None:
        if self.every and step % self.every == 0:
            self.sample(step, self.prompts)

    def sample(self, step: int, prompts: Sequence[str]) -> None:
        """Continue `prompts` with the current weights, or their EMA if one is kept."""
        if not gpt_of(self.model).generates_text:
            return
        backend.sync_model_state(self.model)
        sampling = self.sampling
        if sampling.seed is None:
            sampling = sampling.model_copy(update={"seed": step})
        requests = [self._request(prompt, sampling, i) for i, prompt in enumerate(prompts)]
        with self.status.state("sampling"), swap_in_ema_weights(self.model):
            completions = backend.processes.computed_by_one(
                gpt_of(self.model),
                lambda gpt: [job.token_ids for job in generate(gpt, requests)],
            )
        for prompt, ids in zip(prompts, completions or (), strict=completions is not None):
            self._write(step, prompt, ids, sampling)

    def _request(self, prompt: str, sampling: SamplingConfig, index: int) -> Request:
        new_document = [self.tokenizer.eos_id or 0]
        return Request(
            self.encode(prompt) or new_document,
            sampling,
            stop_ids=self.tokenizer.stop_ids,
            seed=((sampling.seed or 0) + index) % 2**31,
        )

    def _write(self, step: int, prompt: str, ids: list[int], sampling: SamplingConfig) -> None:
        row = {
            "step": step,
            "prompt": prompt,
            "text": self.tokenizer.decode(ids, skip_special_tokens=True),
            "sampling": sampling.model_dump(),
        }
        if self.status.run is not None:
            self.status.run.append("samples", row)
        if self.on_sample is not None:
            self.on_sample(row)
