"""A multiple-choice task: kgpt beside lm-eval's `hf` model, on one CPU and the same weights.

    KERAS_BACKEND=torch python -m benchmarks.evaluation_tasks --rounds 3

Both answer the same log-likelihood requests, alternating: random questions of about 60 tokens with
four answers of about 10, for a model of GPT-2's shape with random weights. What compiles does so in
a first round that is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SHAPES = {
    "gpt2": {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "vocab_size": 50257},
    "small": {"num_layers": 4, "num_heads": 4, "hidden_dim": 128, "vocab_size": 8192},
}
CONTEXT = 256
Requests = list[tuple[tuple[str, str], list[int], list[int]]]


def make_requests(questions: int, answers: int, vocab_size: int) -> Requests:
    """Random token ids in place of texts: (_, context, continuation)."""
    noise = np.random.default_rng(0)

    def ids(low: int, high: int) -> list[int]:
        length = noise.integers(low, high)
        return [int(token) for token in noise.integers(0, vocab_size, length)]

    contexts = [ids(40, 80) for _ in range(questions)]
    return [(("", ""), context, ids(5, 15)) for context in contexts for _ in range(answers)]


def save(folder: Path, shape: dict[str, int]) -> None:
    """A model of random weights, with a tokenizer that no request uses."""
    from kgpt import GPT, ModelConfig, Tokenizer
    from kgpt.checkpoints.pretrained import save_model

    config = ModelConfig.parse({**shape, "max_length": CONTEXT})
    save_model(GPT(config, seed=1), folder, Tokenizer.of_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--answers", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=8, help="of lm-eval's hf model")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = os.environ["TQDM_DISABLE"] = "1"
    from lm_eval.models.huggingface import HFLM

    from kgpt import backend
    from kgpt.evaluation.tasks import TaskModel
    from kgpt.generation.generator import TextGenerator

    shape = SHAPES[options.shape]
    requests = make_requests(options.questions, options.answers, shape["vocab_size"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(folder, shape)
        theirs = HFLM(pretrained=name, device="cpu", dtype="float32", batch_size=options.batch_size)
        with TextGenerator(folder) as generator:
            models: dict[str, Any] = {"kgpt": TaskModel(generator), "hf": theirs}
            compare(models, requests, options.rounds, backend.name)


def compare(models: dict[str, Any], requests: Requests, rounds: int, backend: str) -> None:
    """Print the median seconds of each model, and the greatest difference of an answer."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    found: dict[str, Any] = {}
    for number in range(rounds + 1):
        for name, model in models.items():
            started = time.perf_counter()
            found[name] = model._loglikelihood_tokens(requests, disable_tqdm=True)
            if number:
                seconds[name].append(time.perf_counter() - started)
    pairs = zip(found["kgpt"], found["hf"], strict=True)
    worst = max(abs(ours - theirs) / abs(theirs) for (ours, _), (theirs, _) in pairs)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"{name:5} {median:8.2f} s  {len(requests) / median:8.1f} answers/s")
    print(f"kgpt on {backend} is {medians['hf'] / medians['kgpt']:.2f} times as fast as hf")
    print(f"greatest relative difference of a log-likelihood: {worst:.1e}")


if __name__ == "__main__":
    main()
