"""Distillation on tiny Shakespeare: students with a teacher and without, and a draft's speed-up.

    KERAS_BACKEND=tensorflow python -m benchmarks.distillation [--seeds 3] [--out FOLDER]

A teacher of 10.7M parameters learns characters. Then, for each seed, the same small student learns
the same batches twice: alone (`kgpt train`), and from the teacher, too (`kgpt distill`); the last
validation losses are printed as a JSON line. At last `kgpt distill --draft` makes a draft for the
teacher, and `kgpt bench draft` measures generation with and without it. What exists in FOLDER
already is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from kgpt.data.download import DOWNLOADS, download

TEACHER = (
    "shakespeare-cpu", "--model.num-layers", "6", "--model.num-heads", "6",
    "--model.hidden-dim", "384", "--model.max-length", "128", "--train.batch-size", "8",
)  # fmt: skip
STUDENT = """\
model: {num_layers: 2, num_heads: 4, hidden_dim: 64, max_length: 64, activation: gelu, bias: false}
train: {batch_size: 12, learning_rate: 0.002, min_learning_rate: 0.0001, beta_2: 0.99}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, help="tiny Shakespeare; downloaded when not given")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--teacher-steps", type=int, default=800)
    parser.add_argument("--student-steps", type=int, default=600)
    parser.add_argument("--out", type=Path, help="keep data and runs in this folder")
    options, teacher = parser.parse_known_args()
    text = (options.text or download(DOWNLOADS["shakespeare"], lambda *_: None)).resolve()
    with tempfile.TemporaryDirectory(prefix="kgpt-bench-") as temporary:
        folder = (options.out or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        make_teacher(folder, text, teacher, options.teacher_steps)
        compare_students(folder, options.seeds, options.student_steps)
        print(json.dumps({"draft": measure_draft(folder, options.student_steps)}))


def make_teacher(folder: Path, text: Path, overrides: list[str], steps: int) -> None:
    if not (folder / "data").exists():
        kgpt(folder, "data", "prepare", str(text), "--tokenizer", "char", "--out", "data")
    train(folder, "teacher", ("train", *TEACHER, *overrides), steps)
    print(json.dumps({"teacher_val_loss": val_loss(folder, "teacher")}), flush=True)


def compare_students(folder: Path, seeds: int, steps: int) -> None:
    (folder / "student.yaml").write_text(STUDENT, encoding="utf-8")
    distilled = ("distill", "--teacher", "teacher", "--student", "student.yaml")
    commands = {"alone": ("train", "student.yaml"), "distilled": distilled}
    rows = []
    for seed in range(seeds):
        for name, command in commands.items():
            train(folder, f"{name}-{seed}", (*command, "--train.seed", str(seed)), steps)
        rows.append({name: val_loss(folder, f"{name}-{seed}") for name in commands})
        print(json.dumps({"seed": seed} | rows[-1]), flush=True)
    means = {name: round(statistics.mean(row[name] for row in rows), 4) for name in commands}
    print(json.dumps({"mean": means}), flush=True)


def measure_draft(folder: Path, steps: int) -> dict[str, float]:
    train(folder, "draft", ("distill", "--teacher", "teacher", "--draft"), steps)
    models = ("--model", "teacher", "--draft-model", "draft", "--data", "data")
    sizes = ("--prompt-tokens", "16", "--new-tokens", "40")  # a context of 64 has room for them
    return json.loads(kgpt(folder, "bench", "draft", *models, *sizes, "--json"))


def train(folder: Path, run: str, command: tuple[str, ...], steps: int) -> None:
    """Make a run, unless it exists; its last step is validated."""
    if (folder / "runs" / run).exists():
        return
    settings = {"max-steps": steps, "eval-every": steps, "checkpoint-every": steps,
                "sample-every": 0, "warmup-steps": min(100, steps)}  # fmt: skip
    flags = [flag for key, value in settings.items() for flag in (f"--train.{key}", str(value))]
    kgpt(folder, *command, "--data", "data", "--run", run, "--quiet", *flags)


def val_loss(folder: Path, run: str) -> float:
    """The last one in the metrics of a run."""
    lines = (folder / "runs" / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return round([row for row in map(json.loads, lines) if "val_loss" in row][-1]["val_loss"], 4)


def kgpt(folder: Path, *arguments: str) -> str:
    """The standard output of a `kgpt` command in a folder."""
    environment = os.environ | {"KGPT_RUNS": str(folder / "runs")}
    command = [sys.executable, "-m", "kgpt", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


if __name__ == "__main__":
    main()
