"""`train.eval_suite`: the figures in metrics.jsonl are those of `kgpt eval` on the checkpoint."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kgpt.cli.train import _suite_callback
from kgpt.config import EvaluationSuite
from kgpt.data.prepare import prepare
from kgpt.data.sources import Corpus
from kgpt.evaluation.documents import read_documents
from kgpt.evaluation.models import evaluate_likelihood, open_model
from kgpt.runs import Run, new_run
from kgpt.text.tokenizer import Tokenizer
from kgpt.training.task import make_task
from kgpt.training.trainer import train
from tests.training.tiny_runs import make_config


def rows_of_a_run(tmp_path: Path, entry: str, steps: int) -> tuple[dict[int, Any], Run]:
    """The rows of metrics with validations, every 2 steps of a run with one evaluation."""
    rows = [{"text": f"Anna went home {i} times."} for i in range(20)]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "prompts.txt").write_text("Anna\nBen\n")
    (tmp_path / "suite.yaml").write_text(f"evaluations:\n- {{{entry}, batch_tokens: 64}}\n")
    prepare(Corpus([str(tmp_path / "docs.jsonl")]), Tokenizer.of_bytes(), tmp_path / "data")
    options = {"max_steps": steps, "eval_every": 2, "eval_suite": str(tmp_path / "suite.yaml")}
    task, run = make_task(make_config(tmp_path / "data", train=options)), new_run("run")
    run.path.mkdir(parents=True)
    train(task, run, False, Console(file=io.StringIO()), True, more_callbacks=_suite_callback)
    return {row["step"]: row for row in run.metrics() if "val_loss" in row}, run


@pytest.mark.portable
@pytest.mark.backend
def test_a_suite_at_each_validation_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    entry = f"name: docs, data: {tmp_path}/docs.jsonl, limit: 5"
    found, run = rows_of_a_run(tmp_path, entry, 4)
    assert list(found) == [2, 4] and found[2]["val_docs_loss"] != found[4]["val_docs_loss"]
    (config,) = EvaluationSuite.load(tmp_path / "suite.yaml").evaluations
    model = open_model(str(run.checkpoint_path(4)), config)
    result = evaluate_likelihood(model, read_documents(config), config)
    for name, estimate in result.metrics.items():
        assert found[4][f"val_docs_{name}"] == pytest.approx(estimate.value, rel=1e-4)


@pytest.mark.slow
def test_completions_are_scored_at_each_validation(tmp_path: Path) -> None:
    entry = f"name: said, prompts: {tmp_path}/prompts.txt, sampling: {{max_tokens: 2}}"
    found, _ = rows_of_a_run(tmp_path, entry, 2)
    assert {"val_said_length_characters", "val_said_coherence", "val_loss"} <= found[2].keys()
