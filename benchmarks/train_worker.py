"""One system of the training benchmark, in its own process.

    python -m benchmarks.train_worker '{"name": "jax", "shape": [4, 4, 128, 64, 12], ...}'

It builds and compiles its model, warms up, and prints one JSON object: the peak FLOP/s of matrix
products, null for nanoGPT, and the median milliseconds of the job's `steps` training steps.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import statistics
import sys
import time
from pathlib import Path

from kgpt.cli.environment import prepare_process

VOCABULARY = 65
SETTINGS = {"learning_rate": 1e-3, "weight_decay": 0.1, "beta_1": 0.9, "beta_2": 0.99}


def main() -> None:
    job = json.loads(sys.argv[1])
    if job["name"] != "nanogpt":
        os.environ["KERAS_BACKEND"] = job["name"]
        prepare_process()  # may start this process anew
    with _quiet_output() as answers:
        run = nanogpt(job) if job["name"] == "nanogpt" else kgpt(job)
        run(job["steps"])  # compiles and warms up
        times = run(job["steps"])
        figures = {"peak": run(0), "ms": 1000 * statistics.median(times)}
        print(json.dumps(figures), file=answers, flush=True)


def kgpt(job):
    """Steps of `model.fit`, as `kgpt train` makes them."""
    from kgpt import GPT, ModelConfig, NextTokenLoss, TrainConfig, WarmupCosine
    from kgpt.backend.peak import matmul_peak
    from kgpt.training.bench import RepeatedBatch, StepClock
    from kgpt.training.optimizers import make_optimizer

    layers, heads, width, length, batch = job["shape"]
    config = ModelConfig(
        vocab_size=VOCABULARY, num_layers=layers, num_heads=heads, hidden_dim=width,
        max_length=length, activation="gelu", bias=False,
    )  # fmt: skip
    train = TrainConfig(**SETTINGS, precision=job["precision"])
    model = GPT(config, seed=1, dtype=train.dtype_policy)
    model.compile(optimizer=make_optimizer(train), loss=NextTokenLoss())
    batches, timer = RepeatedBatch(VOCABULARY, batch, length), StepClock()

    def run(steps):
        if steps == 0:
            return matmul_peak(job["precision"])
        batches.repeats = steps
        rate = WarmupCosine(1e-3, 100, 2000, 1e-4)
        model.fit(batches, callbacks=[rate, timer], shuffle=False, verbose=0)
        return timer.times

    return run


def nanogpt(job):
    """Steps of nanoGPT's own model, optimizer and clipping, imported from its checkout."""
    import torch

    file = Path(job["path"]) / "model.py"
    spec = importlib.util.spec_from_file_location("nanogpt_model", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    layers, heads, width, length, batch = job["shape"]
    torch.manual_seed(1)
    shape = module.GPTConfig(
        block_size=length, vocab_size=VOCABULARY, n_layer=layers, n_head=heads, n_embd=width,
        dropout=0.0, bias=False,
    )  # fmt: skip
    model = module.GPT(shape)
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    stepped = torch.compile(model) if job["compiled"] else model
    tokens = torch.randint(0, VOCABULARY, (batch, length + 1))
    low = job["precision"] != "float32"
    context = torch.autocast("cpu", torch.bfloat16) if low else contextlib.nullcontext()

    def step():
        with context:
            _, loss = stepped(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def run(steps):
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        return times or None

    return run


@contextlib.contextmanager
def _quiet_output():
    """Discard what is printed; yield the real standard output for the answers."""
    answers = os.fdopen(os.dup(1), "w")
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    yield answers


if __name__ == "__main__":
    main()
