"""An evaluation suite at each validation of a training run: `train.eval_suite`."""

from __future__ import annotations

from collections.abc import Sequence

from kgpt import backend
from kgpt.config import EvaluationSuite, SamplingConfig, SuiteEntry
from kgpt.evaluation.completions import coherence, completion_statistics, prompt_encoder
from kgpt.evaluation.documents import DocumentEncoder, read_documents
from kgpt.evaluation.evaluate import likelihood_statistics, score_documents
from kgpt.evaluation.likelihood import ModelScorer
from kgpt.evaluation.prompts import Prompt, read_prompts
from kgpt.evaluation.statistic import Statistic
from kgpt.generation.scheduler import generate
from kgpt.generation.seeds import seed_of
from kgpt.generation.sequence import Request
from kgpt.text.tokenizer import Tokenizer
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.step_callback import Logs, StepCallback
from kgpt.training.optimizers import swap_in_ema_weights
from kgpt.training.stored_weights import gpt_of


class SuiteCallback(StepCallback):
    """Adds `val_NAME_METRIC` to the logs for each metric of each evaluation of a suite.

    The weights are the EMA if the optimizer keeps one. Figures have no intervals here; the judge of
    completions is the model itself.

    Args:
        suite: what is evaluated.
        tokenizer: of the data set.
        every: steps between evaluations; the last step has one, too.
        total_steps: the last step.
        status: shows "validating" meanwhile.

    Raises:
        KgptError: the documents or prompts cannot be read.
    """

    def __init__(
        self,
        suite: EvaluationSuite,
        tokenizer: Tokenizer,
        every: int,
        total_steps: int,
        status: StatusWriter | None = None,
    ):
        super().__init__()
        self.tokenizer, self.every, self.total_steps = tokenizer, every, total_steps
        self.status = status or StatusWriter(None)
        entries = suite.evaluations
        self._documents = [(e, read_documents(e)) for e in entries if e.data]
        self._prompts = [(e, read_prompts(e.prompts, e.limit)) for e in entries if e.prompts]
        self._scorers: dict[int, ModelScorer] = {}  # by the tokens of their batches

    def on_step_end(self, step: int, logs: Logs) -> None:
        if step % self.every and step != self.total_steps:
            return
        backend.sync_model_state(self.model)
        with self.status.state("validating"), swap_in_ema_weights(self.model):
            for entry, documents in self._documents:
                encoder = DocumentEncoder(self.tokenizer, entry.first_token)
                scores = score_documents(self._scorer(entry), encoder, documents, entry)
                self._log(logs, entry, likelihood_statistics(scores))
            for entry, prompts in self._prompts:
                self._log(logs, entry, self._completions(entry, prompts))

    def _log(self, logs: Logs, entry: SuiteEntry, statistics: dict[str, Statistic]) -> None:
        logs |= {f"val_{entry.name}_{name}": found.value for name, found in statistics.items()}

    def _scorer(self, entry: SuiteEntry) -> ModelScorer:
        """Kept, with what it has compiled."""
        if entry.batch_tokens not in self._scorers:
            scorer = ModelScorer(gpt_of(self.model), entry.batch_tokens)
            self._scorers[entry.batch_tokens] = scorer
        return self._scorers[entry.batch_tokens]

    def _completions(self, entry: SuiteEntry, prompts: Sequence[Prompt]) -> dict[str, Statistic]:
        """The metrics of completions by the weights of this step."""
        sampling = SamplingConfig.parse({"seed": 0, **entry.sampling})
        encode, stop_ids = prompt_encoder(self.tokenizer), self.tokenizer.stop_ids
        requests = [
            Request(encode(prompt), sampling, stop_ids=stop_ids, seed=seed_of(sampling, number))
            for number, prompt in enumerate(prompts)
        ]
        jobs = generate(gpt_of(self.model), requests)
        texts = [self.tokenizer.decode(job.token_ids, True, continues=True) for job in jobs]
        judged = coherence(self._scorer(entry), self.tokenizer, prompts, texts, entry)
        return completion_statistics(prompts, texts, entry) | {"coherence": judged}
