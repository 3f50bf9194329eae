"""Text written while training: the plainest sign of what a model has learned."""

from __future__ import annotations

from kgpt import backend
from kgpt.config import SamplingConfig
from kgpt.generation.scheduler import generate
from kgpt.generation.sequence import Request
from kgpt.text.tokenizer import Tokenizer
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.step_callback import StepCallback
from kgpt.training.callbacks.validation import swap_in_ema_weights


class SampleWriter(StepCallback):
    """Continues the prompts every N steps and writes samples.jsonl.

    Args:
        tokenizer: of the data set.
        prompts: what the samples begin with.
        sampling: how they are written. Without a seed of its own, the step is the seed.
        every: steps between samples; 0 only on request.
        status: shows "sampling" meanwhile, and does not count the time.
        on_sample: called with each row, after it is written.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompts, sampling: SamplingConfig, every,
        status: StatusWriter | None = None, on_sample=None,
    ):  # fmt: skip
        super().__init__()
        self.tokenizer, self.prompts, self.sampling = tokenizer, list(prompts), sampling
        self.every, self.on_sample = every, on_sample
        self.status = status or StatusWriter(None)

    def on_step_end(self, step, logs):
        if self.every and step % self.every == 0:
            self.write(step, self.prompts)

    def write(self, step, prompts):
        """Continue `prompts` with the weights of this moment."""
        backend.sync_model_state(self.model)
        sampling = self.sampling
        if sampling.seed is None:
            sampling = sampling.model_copy(update={"seed": step})
        start = [self.tokenizer.eos_id or 0]  # an empty prompt begins a new document
        requests = [
            Request(
                self.tokenizer.encode(prompt) or start,
                sampling,
                stop_ids=self.tokenizer.stop_ids,
                seed=((sampling.seed or 0) + row) % 2**31,
            )
            for row, prompt in enumerate(prompts)
        ]
        with self.status.state("sampling"), swap_in_ema_weights(self.model):
            texts = [job.ids for job in generate(self.model, requests)]
        for prompt, new in zip(prompts, texts, strict=True):
            row = {
                "step": step,
                "prompt": prompt,
                "text": self.tokenizer.decode(new, skip_special_tokens=True),
                "sampling": sampling.model_dump(),
            }
            if self.status.run is not None:
                self.status.run.append("samples", row)
            if self.on_sample is not None:
                self.on_sample(row)
