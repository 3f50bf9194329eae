"""What int8 and int4 cost in perplexity, beside llama.cpp's q8_0 and q4_0 of the same model.

    python -m benchmarks.quantization MODEL --data DATA [--windows 40]

MODEL is a trained model, DATA a data set (its validation split) or a text. Each format predicts
the same tokens: those of windows of at most 256 tokens, each from the tokens before it in its
window. llama.cpp needs the `peers` extra, and is left out without it.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

MAX_WINDOW = 256
KGPT_DTYPES = ("float32", "int8", "int4")
LLAMA_TYPES = ("float32", "q8_0", "q4_0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--windows", type=int, default=40)
    options = parser.parse_args()

    from kgpt.checkpoints.pretrained import load_config
    from kgpt.evaluation.perplexity import validation_tokens
    from kgpt.runs import resolve_model

    folder = resolve_model(options.model)
    stream, _ = validation_tokens(options.data, folder)
    length = min(load_config(folder).max_length, MAX_WINDOW)
    starts = np.linspace(0, len(stream) - length, options.windows).astype("int64")
    windows = stream.windows(starts, length).astype("int32")
    table = Table("", "perplexity", "change", title=f"{windows[:, 1:].size:,} tokens")
    for measure in (kgpt_losses, llama_cpp_losses):
        losses = measure(folder, windows)
        first = next(iter(losses.values()), 0.0)
        for name, loss in losses.items():
            table.add_row(name, f"{math.exp(loss):.4f}", f"{math.expm1(loss - first):+.3%}")
    Console().print(table)


def kgpt_losses(folder: Path, windows: np.ndarray) -> dict[str, float]:
    """The mean loss in each of kgpt's formats."""
    from kgpt import backend
    from kgpt.generation.loading import load_for_inference

    losses = {}
    for name in KGPT_DTYPES:
        model = load_for_inference(folder, name)
        logits = backend.jit(model.__call__, model.variables)
        parts = [_losses(backend.to_host(logits(window[None])), window) for window in windows]
        losses[f"kgpt {name}"] = float(np.mean(parts))
    return losses


def _losses(logits: np.ndarray, window: np.ndarray) -> np.ndarray:
    """The loss of each token of a window but the first: logits (1, T, V), window (T,)."""
    scores = logits[0, :-1].astype("float64")
    return np.logaddexp.reduce(scores, axis=-1) - scores[np.arange(len(scores)), window[1:]]


def llama_cpp_losses(folder: Path, windows: np.ndarray) -> dict[str, float]:
    """The mean loss of llama.cpp with each type of matrices."""
    if importlib.util.find_spec("xllamacpp") is None:
        return {}
    from kgpt.export.gguf import export_gguf

    losses = {}
    with tempfile.TemporaryDirectory() as temporary:
        for dtype in LLAMA_TYPES:
            target = Path(temporary, dtype)
            target.mkdir()
            export_gguf(folder, target, dtype)
            losses[f"llama.cpp {dtype}"] = _llama_cpp_loss(target / "model.gguf", windows)
    return losses


def _llama_cpp_loss(file: Path, windows: np.ndarray) -> float:
    """One request a token, whose prefix the server has in its cache."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel = str(file), 2 * MAX_WINDOW, 1
    settings.cpuparams.n_threads = 1  # each request is one token
    server = xllamacpp.Server(settings)

    def loss(prefix: list[int], token: int) -> float:
        answer = server.handle_completions(
            {"prompt": prefix, "max_tokens": 1, "temperature": 0, "top_k": 1, "logprobs": 1 << 20}
        )
        entries = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        return -next(entry["logprob"] for entry in entries if entry["id"] == token)

    rows = windows.tolist()
    return float(np.mean([loss(row[:i], row[i]) for row in rows for i in range(1, len(row))]))


if __name__ == "__main__":
    main()
