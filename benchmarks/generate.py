"""Generation throughput of kgpt and other software: GPT-2 124M, random weights, float32.

    python -m benchmarks.generate [--rounds 3] [--only kgpt,transformers] [--markdown FILE]

A prompt of 32 tokens and 128 new ones, greedy, batch sizes 1 and 8. Each system runs in its own
process, compiles, and is then measured in turn while the others are suspended. Needs transformers;
keras-hub comes with kgpt; llama.cpp needs the `peers` extra.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

PROMPT, NEW, VOCABULARY = 32, 128, 50257
BATCHES = (1, 8)
SYSTEMS = {
    "kgpt jax": "jax", "kgpt tensorflow": "tensorflow", "kgpt torch": "torch",
    "kgpt torch bf16": "torch", "kgpt jax int8": "jax", "kgpt tensorflow int8": "tensorflow",
    "kgpt torch int8": "torch", "transformers": "torch", "transformers bf16": "torch",
    "keras-hub jax": "jax", "keras-hub tensorflow": "tensorflow", "keras-hub torch": "torch",
    "llama.cpp": "torch",
}  # fmt: skip
BASELINE = "transformers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="comma-separated prefixes of names")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--system", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.system:
        run_system(options.system)
        return
    wanted = tuple(options.only.split(",")) if options.only else ("",)
    names = [name for name in SYSTEMS if name.startswith(wanted)]
    rates: dict[str, dict[int, list[float]]] = {name: {b: [] for b in BATCHES} for name in names}
    children = {name: start(name) for name in names}
    for number in range(options.rounds):
        for name in names[number % 2 :] + names[: number % 2]:
            for batch in BATCHES:
                rates[name][batch].append(ask(children[name], batch))
    for child in children.values():
        child.stdin.close()
        child.send_signal(signal.SIGCONT)
    report(
        {n: {b: statistics.median(r) for b, r in rs.items()} for n, rs in rates.items()}, options
    )


def report(rates, options) -> None:
    base = rates.get(BASELINE)
    table = Table(
        "", *(f"tokens/s, batch {b}" for b in BATCHES), title="GPT-2 124M, 32 + 128 tokens"
    )
    lines = [
        "| | " + " | ".join(f"batch {b}" for b in BATCHES) + " |",
        "|---|" + "---:|" * len(BATCHES),
    ]
    for name, by_batch in rates.items():
        cells = [
            f"{rate:.1f}" + (f" ({rate / base[batch]:.2f}×)" if base else "")
            for batch, rate in by_batch.items()
        ]
        table.add_row(name, *cells)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    Console().print(table)
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


def start(name: str) -> subprocess.Popen:
    """Start a system in its own process; it prints "ready" when everything is compiled."""
    command = [sys.executable, "-m", "benchmarks.generate", "--system", name]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"KERAS_BACKEND": SYSTEMS[name], "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    answer = child.stdout.readline()
    if answer.strip() != "ready":
        raise SystemExit(f"{name} did not start")
    child.send_signal(signal.SIGSTOP)
    return child


def ask(child: subprocess.Popen, batch: int) -> float:
    """Tokens per second of one measurement. The other processes are suspended."""
    child.send_signal(signal.SIGCONT)
    child.stdin.write(f"{batch}\n")
    child.stdin.flush()
    rate = json.loads(child.stdout.readline())
    child.send_signal(signal.SIGSTOP)
    return rate


def run_system(name: str) -> None:
    from kgpt.cli.environment import prepare_process

    if name.startswith("kgpt"):
        prepare_process()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep other output off standard output
    kinds = {"kgpt": kgpt, "transformers": transformers, "keras-hub": keras_hub,
             "llama.cpp": llama_cpp}  # fmt: skip
    kind = kinds[name.split()[0]]
    suffix = name.split()[-1]
    generate = kind({"bf16": "bfloat16", "int8": "int8"}.get(suffix, "float32"))
    for batch in BATCHES:
        generate(batch)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        batch = int(line)
        started = time.perf_counter()
        generate(batch)
        rate = batch * NEW / (time.perf_counter() - started)
        print(json.dumps(rate), file=answers, flush=True)


def prompts(batch: int):
    import numpy as np

    return np.random.default_rng(0).integers(0, VOCABULARY, (batch, PROMPT)).astype("int32")


def kgpt(dtype: str):
    from kgpt import GPT
    from kgpt.config import Config, SamplingConfig
    from kgpt.generation.loading import build_for_inference
    from kgpt.generation.runner import ModelRunner
    from kgpt.generation.sequence import Request

    config = Config.load("gpt2").model.model_copy(update={"vocab_size": VOCABULARY})
    model = build_for_inference(functools.partial(GPT, config, seed=1), dtype)
    greedy = SamplingConfig(temperature=0, max_tokens=NEW)
    runners = {size: ModelRunner(model, size) for size in BATCHES}

    def generate(size):
        runner = runners[size]
        for slot, ids in enumerate(prompts(size)):
            runner.sequences[slot].token_ids = []  # no cached prefix from the last round
            runner.add(slot, Request(ids.tolist(), greedy))
        while pending := [i for i in range(size) if not runner.sequences[i].is_decoding]:
            runner.prefill(pending)
        while runner.decoding_slots():
            runner.decode()

    return generate


def transformers(dtype: str):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config()).eval().to(getattr(torch, dtype))
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None

    def generate(size):
        ids = torch.from_numpy(prompts(size)).long()
        with torch.inference_mode():
            model.generate(ids, max_new_tokens=NEW, do_sample=False)

    return generate


def keras_hub(dtype: str):
    import keras_nlp
    import numpy as np

    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=VOCABULARY, num_layers=12, num_heads=12, hidden_dim=768,
        intermediate_dim=3072, max_sequence_length=1024,
    )  # fmt: skip
    model = keras_nlp.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    model.compile(sampler="greedy")

    def generate(size):
        ids = np.zeros((size, PROMPT + NEW), "int32")
        ids[:, :PROMPT] = prompts(size)
        mask = np.zeros((size, PROMPT + NEW), bool)
        mask[:, :PROMPT] = True
        model.generate({"token_ids": ids, "padding_mask": mask}, stop_token_ids=None)

    return generate


def llama_cpp(dtype: str):
    """llama.cpp's server in this process, one slot per sequence."""
    import tempfile
    from concurrent.futures import ThreadPoolExecutor

    import xllamacpp

    settings = xllamacpp.CommonParams()
    with tempfile.TemporaryDirectory() as folder:
        settings.model.path = str(_gguf(Path(folder)))
        settings.n_parallel = max(BATCHES)
        settings.n_ctx = settings.n_parallel * 2 * (PROMPT + NEW)
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = len(
            os.sched_getaffinity(0)
        )
        server = xllamacpp.Server(settings)  # loads the file before it returns

    def answer(ids):
        response = server.handle_completions(
            {"prompt": ids, "max_tokens": NEW, "temperature": 0, "top_k": 1, "ignore_eos": True,
             "cache_prompt": False}
        )  # fmt: skip
        assert response["usage"]["completion_tokens"] == NEW

    pool = ThreadPoolExecutor(max(BATCHES))
    return lambda size: list(pool.map(answer, prompts(size).tolist()))


def _gguf(folder: Path) -> Path:
    """The same shape with random weights as a GGUF file."""
    from kgpt import GPT, Tokenizer
    from kgpt.checkpoints.pretrained import save_model
    from kgpt.config import Config
    from kgpt.export.gguf import export_gguf

    config = Config.load("gpt2").model.model_copy(update={"vocab_size": VOCABULARY})
    (folder / "model").mkdir()
    (folder / "gguf").mkdir()
    save_model(GPT(config, seed=1), folder / "model", Tokenizer.of_bytes())
    export_gguf(folder / "model", folder / "gguf")
    return folder / "gguf" / "model.gguf"


if __name__ == "__main__":
    main()
