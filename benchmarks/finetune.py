"""Fine-tuning on the small world: python -m benchmarks.finetune [--only lora,qlora].

Each row is one `kgpt` command, which is printed before it runs; what it starts from is trained
first. Models are asked the 200 held-out questions of `kgpt demo`, whose combinations occur in no
training text. Settings were chosen on other held-out questions. The table goes to
FOLDER/table.md, with what each row took and whether it reached its goals; rows that FOLDER has
already are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.finetune_run.measure import asked_in_training
from benchmarks.finetune_run.rows import ROWS, Row, chosen_rows, has_data
from benchmarks.finetune_run.table import markdown, missed_goals

RESULTS = "results.json"


def kgpt(*words: str) -> float:
    """Run a command of kgpt; returns its seconds."""
    print(f"$ kgpt {shlex.join(words)}", flush=True)
    started = time.perf_counter()
    outcome = subprocess.run([sys.executable, "-m", "kgpt", *words, "--quiet"])
    if outcome.returncode:
        raise SystemExit(f"The command failed with exit code {outcome.returncode}.")
    return time.perf_counter() - started


def run_row(row: Row) -> dict[str, Any]:
    """Train and measure the model of a row, in the current directory.

    A run that was interrupted begins anew, so that its seconds are those of the whole.
    """
    shutil.rmtree(Path("runs") / row.name, ignore_errors=True)
    for name in row.data:
        if not has_data(name, Path.cwd()):
            kgpt("data", "get", name)
    if asked := asked_in_training(Path("data")):
        raise SystemExit(f"The training data asks what is held out: {asked[0]}")
    seconds = kgpt(*row.words)
    return {"seconds": seconds} | measure(row)


def measure(row: Row) -> dict[str, Any]:
    """The figures of a row's model; perplexities and preferences where they mean something."""
    from benchmarks.finetune_run import measure as measures
    from kgpt.runs import resolve_model

    trained, parameters = measures.trained_parameters(resolve_model(row.name))
    found: dict[str, Any] = {"trained": trained, "parameters": parameters}
    found["right"] = measures.right_answers(row.name)
    if "half" not in (row.name, row.base):
        found["perplexity"] = measures.story_perplexity(row.name, "data/tinyworld-stories")
    else:
        found["chosen"] = measures.chosen_rate(row.name)
    return found


def load_results(folder: Path) -> dict[str, dict[str, Any]]:
    file = folder / RESULTS
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(row.name for row in ROWS)
    parser.add_argument("--only", default="", help=f"rows, separated by commas: {names}")
    parser.add_argument("--folder", type=Path, default=Path("build/finetune"))
    options = parser.parse_args()
    rows = chosen_rows([name for name in options.only.split(",") if name])
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    from kgpt.cli.environment import prepare_process

    prepare_process()
    results = load_results(folder)
    for row in rows:
        if row.name not in results:
            results[row.name] = run_row(row)
            text = json.dumps(results, indent=2)
            (folder / RESULTS).write_text(text, encoding="utf-8")
        table = markdown(ROWS, results)
        (folder / "table.md").write_text(table, encoding="utf-8")
    print(table)
    missed = missed_goals(rows, results)
    print("\n".join(missed) or "Every goal is reached.")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
