"""Who speaks? A classifier of the speeches in tiny Shakespeare, beside scikit-learn's.

    python benchmarks/who_speaks.py tinyshakespeare.txt [--seeds 0 1 2] [--labels 10]

The speeches of the most frequent speakers are split by speaker, a fifth for the test. TF-IDF and
logistic regression of scikit-learn learn them, by default and with options chosen by
cross-validation. kgpt learns the language of all other speeches, the test's left out, with the
speaker's name after each, and then to classify: `kgpt data prepare`, `kgpt train`,
`kgpt classify train`.
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

PRETRAIN = {
    "model.max-length": 256, "model.num-layers": 4, "model.num-heads": 4, "model.hidden-dim": 128,
    "model.intermediate-dim": 344, "model.position": "rotary", "model.norm": "rms",
    "model.activation": "swiglu", "model.bias": "false", "model.dropout": 0.2,
    "train.sequence-length": 128, "train.batch-size": 16, "train.max-steps": 1500,
    "train.learning-rate": 0.002, "train.warmup-steps": 100, "train.eval-every": 500,
    "train.sample-every": 0, "train.checkpoint-every": 0, "train.seed": 0,
}  # fmt: skip
CLASSIFY = {
    "train.max-steps": 400, "train.learning-rate": 0.0005, "train.warmup-steps": 20,
    "train.eval-every": 0, "train.checkpoint-every": 0, "model.dropout": 0.2, "train.seed": 0,
    "classification.val-fraction": 0, "train.sequence-length": 256,
}  # fmt: skip


def speeches(text: str) -> list[tuple[str, str]]:
    """Speaker and words of each speech, in their order."""
    found = (re.match(r"([^\n:]+):\n(.+)", part, re.DOTALL) for part in text.split("\n\n"))
    return [(match[1], match[2].strip()) for match in found if match]


def document(speaker: str, words: str) -> str:
    """A speech and then its speaker, whom a language model learns to predict from it."""
    return f"{words}\n\n{speaker}\n"


def baselines(train: list[tuple[str, str]], test: list[tuple[str, str]]) -> dict[str, list[float]]:
    """Accuracy and macro F1 of scikit-learn, by default and with its best options."""
    names, words = zip(*train, strict=True)
    options = {
        "tfidfvectorizer__ngram_range": [(1, 1), (1, 2)],
        "tfidfvectorizer__sublinear_tf": [False, True],
        "logisticregression__C": [1, 10, 100],
        "logisticregression__class_weight": [None, "balanced"],
    }
    plain = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=2000))
    models = {"scikit-learn": plain, "scikit-learn, tuned": GridSearchCV(plain, options, cv=4)}
    wanted = [name for name, _ in test]
    found = {}
    for name, model in models.items():
        predicted = model.fit(words, names).predict([words for _, words in test])
        f1 = f1_score(wanted, predicted, average="macro")
        found[name] = [accuracy_score(wanted, predicted), f1]
    return found


def write_csv(file: Path, rows: list[tuple[str, str]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerows([("text", "label"), *((f"{words}\n\n", name) for name, words in rows)])
    return file


def kgpt(folder: Path, *words: object) -> str:
    """Run a command in `folder`; its standard output."""
    command = [sys.executable, "-m", "kgpt", *map(str, words)]
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def flags(options: dict[str, object]) -> list[object]:
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def ours(
    folder: Path,
    others: list[tuple[str, str]],
    train: list[tuple[str, str]],
    test: list[tuple[str, str]],
    base: bool = True,
) -> list[float]:
    """Accuracy and macro F1 of kgpt; without `base`, of a classifier that was not pretrained."""
    train_file, test_file = (
        write_csv(folder / f"{name}.csv", rows) for name, rows in (("train", train), ("test", test))
    )
    start: list[object] = []
    if base:
        documents = [json.dumps({"text": document(*speech)}) for speech in others]
        (folder / "all.jsonl").write_text("\n".join(documents), encoding="utf-8")
        size = ("--tokenizer", "bpe", "--vocab-size", 1024, "--val-fraction", 0.02)
        kgpt(folder, "data", "prepare", "all.jsonl", "--out", "set", *size)
        preset = ("train", "shakespeare-cpu", "--data", "set", "--run", "language", "--quiet")
        kgpt(folder, *preset, *flags(PRETRAIN))
        start = ["--model", "language@latest"]
    kgpt(
        folder, "classify", "train", *start, "--data", train_file, "--class-weights", "balanced",
        "--run", "speaker", "--quiet", *flags(CLASSIFY),
    )  # fmt: skip
    answer = kgpt(
        folder, "classify", "eval", "--model", "speaker@latest", "--data", test_file, "--json"
    )
    report = json.loads(answer)
    return [report["accuracy"], report["macro_f1"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the split")
    parser.add_argument("--labels", type=int, default=10, help="the most frequent speakers")
    arguments = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "jax")
    everything = speeches(arguments.text.read_text(encoding="utf-8"))
    counts = collections.Counter(name for name, _ in everything)
    names = [name for name, _ in counts.most_common(arguments.labels)]
    chosen = [i for i, (name, _) in enumerate(everything) if name in names]
    labels = [everything[i][0] for i in chosen]
    for seed in arguments.seeds:
        train, test = train_test_split(chosen, test_size=0.2, stratify=labels, random_state=seed)
        held_out = set(test)
        others = [speech for i, speech in enumerate(everything) if i not in held_out]
        parts = [[everything[i] for i in part] for part in (train, test)]
        results = baselines(*parts)
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            results["kgpt"] = ours(Path(folder), others, *parts)
        for name, (accuracy, f1) in results.items():
            print(f"seed {seed}  {name:20} accuracy {accuracy:.3f}  macro F1 {f1:.3f}")
        minutes = (time.monotonic() - began) / 60
        print(f"seed {seed}  {len(train)} and {len(test)} speeches, kgpt in {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
