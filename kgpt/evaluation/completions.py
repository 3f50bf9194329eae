"""Completions of prompts, and how good they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.checkpoints.pretrained import resolve_source
from kgpt.config import EvaluationConfig
from kgpt.evaluation.documents import EncodedDocument
from kgpt.evaluation.evaluate import window_size
from kgpt.evaluation.journal import Journal
from kgpt.evaluation.likelihood import Progress, Scorer
from kgpt.evaluation.prompts import Prompt
from kgpt.evaluation.result import Sample
from kgpt.evaluation.statistic import Statistic
from kgpt.evaluation.text_metrics import score_texts
from kgpt.evaluation.text_metrics.copying import copying_statistics
from kgpt.evaluation.windows import Window, windows
from kgpt.generation.generator import TextGenerator
from kgpt.generation.seeds import seed_of
from kgpt.text.chat_template import ChatMLTemplate, load_chat_template
from kgpt.text.tokenizer import Tokenizer

MAX_NUM_SEQS = 32  # sequences decoded at once
Encode = Callable[[Prompt], list[int]]


def prompt_encoder(tokenizer: Tokenizer) -> Encode:
    """A function from a prompt to token ids, conversations by the chat template or ChatML."""

    def encode(prompt: Prompt) -> list[int]:
        if prompt.messages is None:
            return tokenizer.encode_prompt(prompt.text)
        template = load_chat_template(tokenizer) or ChatMLTemplate(tokenizer)
        return template.encode(prompt.messages, add_generation_prompt=True)[0]

    return encode


def generate_completions(
    model: str,
    prompts: Sequence[Prompt],
    config: EvaluationConfig,
    sampling: dict[str, Any],
    journal: Journal,
    progress: Progress = lambda _: None,
) -> list[str]:
    """The completions of all prompts, in one batch that is kept full; see `Journal`.

    The seeds count up from that of `sampling`, 0 when not given, so that a completion does not
    depend on the others.

    Args:
        sampling: changes of the model's own sampling.
    """
    done = len(journal.done)
    progress(done)
    if done < len(prompts):
        sequences = min(MAX_NUM_SEQS, len(prompts) - done)
        folder = resolve_source(model)
        options: dict[str, Any] = {"dtype": config.dtype}
        options["kv_cache_dtype"] = config.kv_cache_dtype
        with TextGenerator(folder, max_num_seqs=sequences, **options) as generator:
            encode = prompt_encoder(generator.tokenizer)
            chosen = generator.sampling(None, {"seed": 0, **sampling})
            ids = [encode(prompt) for prompt in prompts[done:]]

            def finished(number: int, completion: Any) -> None:
                journal.add([done + number], [completion.text])
                progress(1)

            seeded = chosen.model_copy(update={"seed": seed_of(chosen, done)})
            generator.generate_batch(ids, seeded, on_done=finished)
    return [journal.done[number] for number in range(len(prompts))]


def completion_statistics(
    prompts: Sequence[Prompt], completions: Sequence[str], config: EvaluationConfig
) -> dict[str, Statistic]:
    """Every metric of the texts, with their references if there are any, and of their novelty."""
    references = [prompt.references for prompt in prompts] if prompts[0].references else None
    found = score_texts(completions, references)
    if config.novelty_data is not None:
        folder = Path(config.novelty_data)
        found |= copying_statistics(completions, folder, config.min_copied_tokens)
    return found


def coherence(
    scorer: Scorer,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    completions: Sequence[str],
    config: EvaluationConfig,
) -> Statistic:
    """Bits per byte of completions after their prompts, under a judge: lower is more coherent.

    Likelihood prizes repetition, so read it beside `rep_4`.
    """
    context, stride = window_size(config, scorer.context)
    encode = prompt_encoder(tokenizer)
    cut: list[Window] = []
    for number, (prompt, ids) in enumerate(
        zip(prompts, tokenizer.encode_batch(completions), strict=True)
    ):
        before = encode(prompt)
        mask = np.r_[np.zeros(len(before), bool), np.ones(len(ids), bool)]
        document = EncodedDocument(np.asarray([*before, *ids], "int32"), mask, 0, 0)
        cut += windows(document, number, context, stride)
    losses = np.zeros(len(prompts))
    np.add.at(losses, [window.document for window in cut], scorer.losses(cut))
    sizes = [len(text.encode()) for text in completions]
    return Statistic.ratio((losses / math.log(2)).tolist(), sizes, "lower")


def make_samples(
    prompts: Sequence[Prompt], completions: Sequence[str], statistics: dict[str, Statistic]
) -> list[Sample]:
    """The texts side by side, with each prompt's own metrics."""
    values = {name: statistic.item_values for name, statistic in statistics.items()}
    return [
        Sample(
            prompt.text,
            text,
            prompt.references[0] if prompt.references else None,
            {name: float(found[i]) for name, found in values.items() if np.isfinite(found[i])},
        )
        for i, (prompt, text) in enumerate(zip(prompts, completions, strict=True))
    ]
