"""Time to the first token of long prompts: GPT-2 124M shape, 8,192 positions, float32, batch 1.

    python -m benchmarks.prefill [--lengths 512,1024,2048,4096] [--kv-cache-dtype int8]

kgpt on its three backends and llama.cpp (`peers` extra) with the same random weights. Each system
is a process that computes each length once to compile, and is then measured in turn, three times,
while the others are suspended. Beside it, for kgpt, milliseconds of a decode step at that context.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

VOCABULARY, POSITIONS, STEPS, ROUNDS = 50257, 8192, 16, 3
SYSTEMS = {"llama.cpp": "jax", "kgpt jax": "jax", "kgpt tensorflow": "tensorflow",
           "kgpt torch": "torch"}  # fmt: skip
Measure = Callable[[int], list[float]]  # of a length: seconds to the first token, and of a step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", default="512,1024,2048,4096")
    parser.add_argument("--kv-cache-dtype", default="auto")
    parser.add_argument("--only", default="", help="comma-separated prefixes of names")
    parser.add_argument("--system", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    lengths = [int(length) for length in options.lengths.split(",")]
    if options.system:
        run_system(options.system[0], Path(options.system[1]), lengths, options.kv_cache_dtype)
        return
    names = [name for name in SYSTEMS if name.startswith(tuple(options.only.split(",")))]
    table = Table("tokens", *names, title="seconds to the first token (ms of a decode step)")
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        children = [start(name, folder, options) for name in names]
        for length in lengths:
            rounds = [[ask(child, length) for child in children] for _ in range(ROUNDS)]
            table.add_row(
                f"{length:,}", *(cell(list(times)) for times in zip(*rounds, strict=True))
            )
        for child in children:
            child.kill()
    Console().print(table)


def cell(times: list[list[float]]) -> str:
    """The medians of the rounds: "0.85 (21.3)"."""
    first, *step = (statistics.median(column) for column in zip(*times, strict=True))
    return f"{first:.2f}" + (f" ({1e3 * step[0]:.1f})" if step else "")


def start(name: str, folder: str, options: argparse.Namespace) -> subprocess.Popen:
    command = [sys.executable, "-m", "benchmarks.prefill", "--system", name, folder]
    command += ["--lengths", options.lengths, "--kv-cache-dtype", options.kv_cache_dtype]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=os.environ | {"KERAS_BACKEND": SYSTEMS[name]},
    )  # fmt: skip
    if child.stdout.readline().strip() != "ready":
        raise SystemExit(f"{name} did not start.")
    child.send_signal(signal.SIGSTOP)
    return child


def ask(child: subprocess.Popen, length: int) -> list[float]:
    """One measurement; the other processes are suspended."""
    child.send_signal(signal.SIGCONT)
    child.stdin.write(f"{length}\n")
    child.stdin.flush()
    times = json.loads(child.stdout.readline())
    child.send_signal(signal.SIGSTOP)
    return times


def run_system(name: str, folder: Path, lengths: list[int], kv_cache_dtype: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep other output off standard output
    measure = llama_cpp(folder) if name == "llama.cpp" else kgpt(folder, kv_cache_dtype)
    for length in lengths:
        measure(length)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(int(line))), file=answers, flush=True)


def prompt(length: int) -> list[int]:
    import numpy as np

    return np.random.default_rng(length).integers(0, VOCABULARY, length).tolist()


def kgpt(folder: Path, kv_cache_dtype: str) -> Measure:
    from kgpt.cli.environment import prepare_process

    prepare_process()
    from kgpt.config import SamplingConfig
    from kgpt.generation.loading import load_for_inference
    from kgpt.generation.runner import ModelRunner
    from kgpt.generation.sequence import Request

    model = load_for_inference(folder / "model")
    model.kv_cache_dtype = kv_cache_dtype
    greedy = SamplingConfig(temperature=0, max_tokens=2 * STEPS)

    def measure(length: int) -> list[float]:
        runner = ModelRunner(model)
        runner.ensure_cache_capacity(length + 2 * STEPS)
        started = time.perf_counter()
        runner.add(0, Request(prompt(length), greedy))
        while not runner.sequences[0].is_decoding:
            runner.prefill([0])
        runner.decode(1)
        first = time.perf_counter() - started
        started = time.perf_counter()
        runner.decode(STEPS)
        return [first, (time.perf_counter() - started) / STEPS]

    return measure


def llama_cpp(folder: Path) -> Measure:
    """llama.cpp's server in this process."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(folder / "gguf" / "model.gguf")
    settings.n_parallel, settings.n_ctx = 1, POSITIONS
    settings.cpuparams.n_threads = len(os.sched_getaffinity(0))
    settings.cpuparams_batch.n_threads = settings.cpuparams.n_threads
    server = xllamacpp.Server(settings)

    def measure(length: int) -> list[float]:
        started = time.perf_counter()
        server.handle_completions(
            {"prompt": prompt(length), "max_tokens": 1, "temperature": 0, "ignore_eos": True,
             "cache_prompt": False}
        )  # fmt: skip
        return [time.perf_counter() - started]

    return measure


def write_model(folder: Path) -> None:
    """The model directory and its GGUF file, by a process of its own, which loads a backend."""
    code = "from benchmarks.prefill import _write; import sys; _write(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, folder], check=True, env=os.environ | {"KERAS_BACKEND": "jax"}
    )


def _write(folder: str) -> None:
    from kgpt import GPT, Tokenizer
    from kgpt.checkpoints.pretrained import save_model
    from kgpt.config import Config
    from kgpt.export.gguf import export_gguf

    changes = {"vocab_size": VOCABULARY, "max_length": POSITIONS}
    config = Config.load("gpt2").model.model_copy(update=changes)
    model, gguf = Path(folder) / "model", Path(folder) / "gguf"
    model.mkdir()
    gguf.mkdir()
    save_model(GPT(config, seed=1), model, Tokenizer.of_bytes())
    export_gguf(model, gguf)


if __name__ == "__main__":
    main()
