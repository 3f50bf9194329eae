"""Who speaks? kgpt and scikit-learn's TF-IDF with logistic regression on the same split.

    KERAS_BACKEND=jax python -m benchmarks.classification [--splits 3] [--validation]

The texts are the speeches of the ten characters of tiny Shakespeare who speak most often, in lower
case; a fifth of each character's are held out. `kgpt classify train` makes a small new model; more
of its options, such as --train.max-steps, may be given. The baseline is run with scikit-learn's
defaults, and with n-grams, regularization and class weights chosen by cross-validation on the
training texts. Every split is printed as a JSON line. With --validation a fifth of the training
texts is predicted in place of the test texts, which choosing options needs.
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

from kgpt.data.download import DOWNLOADS, download

CHARACTERS = 10
GRID = {
    "tfidfvectorizer__ngram_range": [(1, 1), (1, 2)],
    "logisticregression__C": [1, 10, 100],
    "logisticregression__class_weight": [None, "balanced"],
}
# No text is held out from the training texts: the options were chosen with other validation texts.
OPTIONS = (
    "--class-weights", "balanced", "--classification.val-fraction", "0",
    "--classification.vocab-size", "8192", "--data.token-dropout", "0.3",
    "--model.num-layers", "1", "--model.intermediate-dim", "256", "--model.dropout", "0.3",
    "--train.max-steps", "400", "--train.learning-rate", "0.002", "--train.warmup-steps", "20",
    "--train.beta-2", "0.999",
)  # fmt: skip
Texts = list[tuple[str, str]]  # text and label


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, help="tiny Shakespeare; downloaded when not given")
    parser.add_argument("--splits", type=int, default=3, help="by the seeds 0, 1, ...")
    parser.add_argument("--validation", action="store_true")
    options, overrides = parser.parse_known_args()
    texts = speeches(options.text or download(DOWNLOADS["shakespeare"], lambda *_: None))
    rows = []
    for seed in range(options.splits):
        rows.append(compare(*split(texts, seed, options.validation), seed, overrides))
        print(json.dumps({"split": seed} | rows[-1]), flush=True)
    print(json.dumps({"mean": {k: round(statistics.mean(r[k] for r in rows), 4) for k in rows[0]}}))


def speeches(file: Path) -> Texts:
    """The speeches of the characters who speak most often, and their names."""
    found = []
    for part in file.read_text(encoding="utf-8").split("\n\n"):
        if match := re.match(r"([^\n:]+):\n(.*)", part, re.DOTALL):
            found.append((" ".join(match[2].lower().split()), match[1]))
    counts = collections.Counter(name for _, name in found)
    names = {name for name, _ in counts.most_common(CHARACTERS)}
    return [(text, name) for text, name in found if name in names]


def split(texts: Texts, seed: int, validation: bool) -> tuple[Texts, Texts]:
    """Training and held-out texts, the same for all systems."""
    for _ in range(2 if validation else 1):
        labels = [label for _, label in texts]
        texts, held_out = train_test_split(texts, test_size=0.2, stratify=labels, random_state=seed)
    return texts, held_out


def compare(train: Texts, held_out: Texts, seed: int, overrides: Sequence[str]) -> dict[str, float]:
    """Accuracy and macro F1 of each system on the held-out texts."""
    plain = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=2000))
    pipeline = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(max_iter=2000))
    figures = {}
    for name, model in {"tfidf": plain, "tfidf_tuned": GridSearchCV(pipeline, GRID, cv=4)}.items():
        model.fit(*zip(*train, strict=True))
        wanted = [label for _, label in held_out]
        found = model.predict([text for text, _ in held_out]).tolist()
        right = [a == b for a, b in zip(found, wanted, strict=True)]
        figures[f"{name}_accuracy"] = round(statistics.mean(right), 4)
        figures[f"{name}_macro_f1"] = round(f1_score(wanted, found, average="macro"), 4)
    with tempfile.TemporaryDirectory(prefix="kgpt-bench-") as folder:
        report = kgpt(train, held_out, seed, overrides, Path(folder))
    return figures | {f"kgpt_{key}": round(report[key], 4) for key in ("accuracy", "macro_f1")}


def kgpt(
    train: Texts, held_out: Texts, seed: int, overrides: Sequence[str], folder: Path
) -> dict[str, float]:
    """The report of `kgpt classify eval` after one `kgpt classify train`."""
    write(folder / "train.csv", train)
    write(folder / "held-out.csv", held_out)
    training = ("train", "--data", "train.csv", "--run", "who", "--train.seed", str(seed))
    run(folder, *training, *OPTIONS, *overrides, "--quiet")
    return json.loads(run(folder, "eval", "--model", "who", "--data", "held-out.csv", "--json"))


def write(file: Path, texts: Texts) -> None:
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([("text", "label"), *texts])


def run(folder: Path, *arguments: str) -> str:
    """The standard output of a `kgpt classify` command in a folder."""
    command = [sys.executable, "-m", "kgpt", "classify", *arguments]
    environment = os.environ | {"KGPT_RUNS": str(folder / "runs")}
    done = subprocess.run(
        command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


if __name__ == "__main__":
    main()
