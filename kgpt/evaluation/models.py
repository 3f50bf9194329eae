"""Evaluate a model that is named, trained at the moment, or served elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kgpt import backend
from kgpt.checkpoints.pretrained import load_model, load_tokenizer, resolve_source
from kgpt.config import EvaluationConfig, compute_dtype, weight_format
from kgpt.evaluation.completions import (
    coherence,
    completion_statistics,
    generate_completions,
    make_samples,
)
from kgpt.evaluation.documents import Document, DocumentEncoder, fingerprint
from kgpt.evaluation.evaluate import (
    estimates,
    item_settings,
    likelihood_statistics,
    score_documents,
)
from kgpt.evaluation.identity import model_identity
from kgpt.evaluation.journal import Journal, settings_hash
from kgpt.evaluation.likelihood import ModelScorer, Progress, Scorer
from kgpt.evaluation.positions import loss_by_position
from kgpt.evaluation.prompts import Prompt
from kgpt.evaluation.result import EvaluationResult, versions
from kgpt.evaluation.server import ServerScorer
from kgpt.generation.loading import inference_dtype
from kgpt.model.gpt import GPT
from kgpt.out_of_memory import out_of_memory_as_kgpt
from kgpt.text.tokenizer import Tokenizer

LESS_MEMORY = "lower batch_tokens or context, or evaluate with the dtype bfloat16, int8 or int4"
ShowProgress = Callable[[str, int], AbstractContextManager[Progress]]  # of what, and how many bytes


@dataclass(frozen=True)
class EvaluatedModel:
    """A model that can be evaluated.

    Attributes:
        name: as it is shown.
        identity: what identifies it; the results of an interrupted evaluation count only if it is
            the same.
        scorer: gives likelihoods.
        tokenizer: of the model.
    """

    name: str
    identity: dict[str, Any]
    scorer: Scorer
    tokenizer: Tokenizer


@out_of_memory_as_kgpt(LESS_MEMORY)
def open_model(name: str, config: EvaluationConfig) -> EvaluatedModel:
    """A model directory, a run, run@step, an adapter's folder or a hub name, loaded.

    Raises:
        KgptError: there is no such model, or it cannot be read.
    """
    folder = resolve_source(name)
    identity = model_identity(folder)
    dtype = inference_dtype(folder, config.dtype)
    backend.set_precision(dtype)
    model = load_model(folder, dtype=compute_dtype(dtype), weight_format=weight_format(dtype))
    if weight_format(dtype):
        model.prepack_weights()
    scorer = ModelScorer(model, config.batch_tokens)
    return EvaluatedModel(name, identity, scorer, load_tokenizer(folder))


def open_server(
    url: str, tokenizer: str, config: EvaluationConfig, model: str | None = None
) -> EvaluatedModel:
    """A model behind a server, whose tokenizer is that of the model called `tokenizer`.

    Raises:
        KgptError: the server does not answer. UsageError: there is no such tokenizer.
    """
    scorer = ServerScorer(url, config.context, model)
    read = load_tokenizer(resolve_source(tokenizer))
    identity = {"server": scorer.url, "model": scorer.model, "tokenizer": read.fingerprint}
    return EvaluatedModel(f"{scorer.model} at {scorer.url}", identity, scorer, read)


def of_live_model(model: GPT, tokenizer: Tokenizer, config: EvaluationConfig) -> EvaluatedModel:
    """A model in this process, such as one that is being trained."""
    identity = {"parameters": model.count_params()}
    return EvaluatedModel(model.name, identity, ModelScorer(model, config.batch_tokens), tokenizer)


def _no_progress(_: str, __: int) -> AbstractContextManager[Progress]:
    return nullcontext(lambda _: None)


@out_of_memory_as_kgpt(LESS_MEMORY)
def evaluate_likelihood(
    model: EvaluatedModel,
    documents: Sequence[Document],
    config: EvaluationConfig,
    out: Path | None = None,
    show_progress: ShowProgress = _no_progress,
) -> EvaluationResult:
    """The likelihoods of documents, with all that is needed to compute them again.

    Args:
        out: a folder where finished documents are noted; an evaluation that was interrupted goes
            on from there.
        show_progress: called with what is done and its bytes; gives a function that is called with
            the bytes of finished documents.

    Raises:
        KgptError: see `score_documents`.
    """
    data = {"sources": config.data, "sha256": fingerprint(documents), "documents": len(documents)}
    encoder = DocumentEncoder(model.tokenizer, config.first_token)
    identity = {key: value for key, value in model.identity.items() if key != "folder"}
    key = {"model": identity, "data": data["sha256"], "options": item_settings(config)}
    journal = Journal(out, key | {"backend": backend.name})
    total = sum(document.num_bytes for document in documents)
    with show_progress(f"likelihood of {model.name}", total) as progress:
        scores = score_documents(model.scorer, encoder, documents, config, journal, progress)
    statistics = likelihood_statistics(scores)
    counts = {name: sum(getattr(score, name) for score in scores) for name in ("words", "bytes")}
    return EvaluationResult(
        model.name,
        {**model.identity, "tokens": sum(score.tokens for score in scores)},
        {**data, **counts},
        config.model_dump(),
        estimates(statistics, config),
        statistics,
        versions=versions(backend.name),
        loss_by_position=loss_by_position([np.array(one.positions) for one in scores]),
    )


@out_of_memory_as_kgpt(LESS_MEMORY)
def evaluate_completions(
    name: str,
    prompts: Sequence[Prompt],
    config: EvaluationConfig,
    sampling: dict[str, Any],
    out: Path | None = None,
    show_progress: ShowProgress = _no_progress,
) -> EvaluationResult:
    """Completions of prompts by the model called `name`, and their quality.

    Args:
        sampling: changes of the model's own sampling.
            The others are those of `evaluate_likelihood`; progress counts prompts.

    Raises:
        KgptError: there is no such model, or an option is invalid.
    """
    identity = model_identity(resolve_source(name))
    rows = [[p.text, [dict(m) for m in p.messages or ()], list(p.references)] for p in prompts]
    data = {"sources": [config.prompts], "sha256": settings_hash({"prompts": rows})}
    key = {"weights": identity["sha256"], "data": data["sha256"], "sampling": sampling}
    journal = Journal(out, key | {"dtype": config.dtype, "backend": backend.name})
    with show_progress(f"completions of {name}", len(prompts)) as progress:
        texts = generate_completions(name, prompts, config, sampling, journal, progress)
    statistics = completion_statistics(prompts, texts, config)
    judge = open_model(config.judge or name, config)
    statistics["coherence"] = coherence(judge.scorer, judge.tokenizer, prompts, texts, config)
    return EvaluationResult(
        name,
        identity,
        {**data, "prompts": len(prompts)},
        config.model_dump() | {"sampling": sampling},
        estimates(statistics, config),
        statistics,
        make_samples(prompts, texts, statistics),
        versions(backend.name),
    )
