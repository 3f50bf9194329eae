"""SavedModel beside the engine on TensorFlow: python -m benchmarks.saved_model.

Both generate from the same weights in one process, alternating; best of `ROUNDS`. GPT-2's shape
with random weights, float32, a prompt of 32 tokens and 64 new ones.
"""

from __future__ import annotations

import os

os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from kgpt.checkpoints.pretrained import load_model, save_model
from kgpt.config import Config, SamplingConfig
from kgpt.export.savedmodel.controls import default_controls
from kgpt.export.savedmodel.export import export_saved_model
from kgpt.generation.scheduler import generate
from kgpt.generation.sequence import Request
from kgpt.model.gpt import GPT
from kgpt.text.tokenizer import Tokenizer

ROUNDS = 3
PROMPT, NEW = 32, 64


def make_model(folder: Path, preset: str) -> None:
    tokenizer = Tokenizer.of_bytes()
    config = Config.load(preset).model
    config = config.model_copy(update={"vocab_size": config.vocab_size or 50257})
    save_model(GPT(config, seed=0), folder, tokenizer)


def export(folder: Path, target: Path) -> None:
    target.mkdir(parents=True)
    started = time.perf_counter()
    export_saved_model(folder, target)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    print(f"export: {time.perf_counter() - started:.0f} s, {size / 1e6:.0f} MB")


def measure(folder: Path, target: Path, batch: int) -> tuple[float, float]:
    """Tokens per second of the engine and of the SavedModel."""
    model, ends = load_model(folder), Tokenizer.load(folder).stop_ids
    served = tf.saved_model.load(str(target)).signatures["generate_ids"]
    ids = np.random.default_rng(0).integers(0, 256, (batch, PROMPT)).astype("int32")
    sampling = SamplingConfig(max_tokens=NEW, temperature=0)
    controls = default_controls(sampling)
    del controls["stop"]

    def engine():
        requests = [Request(row.tolist(), sampling, stop_ids=ends) for row in ids]
        return [job.token_ids for job in generate(model, requests, max_num_seqs=batch)]

    def graph():
        return served(ids=tf.constant(ids), **controls)["ids"].numpy().tolist()

    assert engine() == graph()
    best = {engine: np.inf, graph: np.inf}
    for _ in range(ROUNDS):
        for system in best:
            started = time.perf_counter()
            system()
            best[system] = min(best[system], time.perf_counter() - started)
    return batch * NEW / best[engine], batch * NEW / best[graph]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="gpt2")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, target = Path(place) / "model", Path(place) / "served" / "1"
        folder.mkdir()
        make_model(folder, options.preset)
        export(folder, target)
        print("batch  engine tokens/s  graph tokens/s  ratio")
        for batch in options.batch:
            engine, graph = measure(folder, target, batch)
            print(f"{batch:5}  {engine:15.1f}  {graph:14.1f}  {graph / engine:5.2f}")


if __name__ == "__main__":
    main()
