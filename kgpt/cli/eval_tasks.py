"""`kgpt eval --tasks`: benchmarks of lm-evaluation-harness."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kgpt.config import EvaluationConfig
from kgpt.errors import UsageError
from kgpt.files import os_errors_as_kgpt, write_json

RESULTS_FILE = "tasks.json"


def evaluate_tasks(
    models: Sequence[str],
    tasks: str,
    config: EvaluationConfig,
    num_fewshot: int | None,
    apply_chat_template: bool,
    out: Path | None,
) -> dict[str, dict[str, Any]]:
    """lm-eval's results by model, which `out`, if given, gets as tasks.json.

    Args:
        tasks: names and YAML files, separated by commas.
        config: `limit`, `dtype` and `context` are used.

    Raises:
        UsageError: lm-eval is not installed, or there is no such task. DataError: there are no
            data of a task.
    """
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise UsageError("--tasks names none; give names or YAML files, separated by commas.")
    if config.data or config.prompts is not None:
        raise UsageError("Tasks have data of their own; leave --data and --prompts out.")
    if num_fewshot is not None and num_fewshot < 0:
        raise UsageError("--num-fewshot must be at least 0.")
    if not Console(stderr=True).is_terminal:
        os.environ.setdefault("TQDM_DISABLE", "1")
    from kgpt.checkpoints.pretrained import resolve_source
    from kgpt.generation.generator import TextGenerator

    try:
        from kgpt.evaluation.tasks import run_tasks
    except ImportError:
        raise UsageError('--tasks needs lm-eval; `pip install "kgpt[eval]"`.') from None
    results = {}
    for model in models:
        folder = resolve_source(model)
        options: dict[str, Any] = {"max_context": config.context, "dtype": config.dtype}
        options["kv_cache_dtype"] = config.kv_cache_dtype
        with TextGenerator(folder, max_num_seqs=16, **options) as generator:
            results[model] = run_tasks(
                generator, names, num_fewshot, config.limit, apply_chat_template
            )
    if out is not None:
        with os_errors_as_kgpt(f"write {out / RESULTS_FILE}"):
            out.mkdir(parents=True, exist_ok=True)
            write_json(out / RESULTS_FILE, results)
    return results


def show_tasks(results: dict[str, dict[str, Any]], as_json: bool, console: Console) -> None:
    """Print the results of each model as one JSON object, or the metrics side by side."""
    if as_json:
        print(json.dumps(results, ensure_ascii=False))
        return
    table = Table()
    table.add_column("task")
    table.add_column("metric")
    for model in results:
        table.add_column(Text(model), justify="right")
    cells = {model: metrics_of(found) for model, found in results.items()}
    for task, metric in next(iter(cells.values())):
        shown = [cells[model].get((task, metric), "") for model in results]
        table.add_row(Text(task), Text(metric), *map(Text, shown))
    console.print(table)


def metrics_of(results: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Each metric with its standard error, by task and metric, from lm-eval's results.

    >>> found = {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": "quiz"}
    >>> metrics_of({"results": {"quiz": found}})
    {('quiz', 'acc'): '0.5000 ± 0.1000'}
    """
    found = {}
    for task, values in results["results"].items():
        for name, value in values.items():
            metric, _, filtered = name.partition(",")
            if isinstance(value, (int, float)) and filtered and not metric.endswith("_stderr"):
                shown = metric if filtered == "none" else f"{metric} ({filtered})"
                error = values.get(f"{metric}_stderr,{filtered}")
                margin = f" ± {error:.4f}" if isinstance(error, (int, float)) else ""
                found[task, shown] = f"{value:.4f}{margin}"
    return found
