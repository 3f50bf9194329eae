"""Training beside nanoGPT and generation beside transformers: one system a process."""

from __future__ import annotations

import functools
import importlib.util
import statistics
import sys
import time
from typing import Any

import numpy as np

from benchmarks.gpu_run.worker import emit

LABELS = {"jax": "kgpt, JAX", "torch": "kgpt, PyTorch", "tensorflow": "kgpt, TensorFlow"}
WARMUP_STEPS = 4
REPEATS = 3


def train(job: dict[str, Any]) -> None:
    """Steps of `model.fit` with what `kgpt train` builds, at one batch size."""
    from kgpt.config import Config, TrainConfig
    from kgpt.training.bench import measure_training

    shapes, backend = job["shapes"], job["backend"]
    options = {"precision": "bfloat16", "weight_decay": 0.1, "beta_2": 0.95, "learning_rate": 6e-4}
    system = LABELS[backend]
    if backend == "torch" and "compile" in TrainConfig.model_fields:
        options["compile"], system = "on", f"{system}, compiled"
    config = Config.parse({"model": model_options(shapes), "train": options})
    figures = measure_training(config, [job["batch_size"]], shapes["steps"])
    (row,) = figures.pop("batches")
    emit(kind="train", system=system, **figures, **row)


def nanogpt(job: dict[str, Any]) -> None:
    """nanoGPT's own model, optimizer and clipping, compiled by `torch.compile`."""
    import torch

    from kgpt import ModelConfig
    from kgpt.datasheet import find_datasheet

    shapes, device = job["shapes"], job["shapes"]["device"]
    model = nanogpt_model(job).to(device)
    optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), device)
    compiled = torch.compile(model)
    batch, length = shapes["batch_size"], shapes["max_length"]
    tokens = torch.randint(0, shapes["vocab_size"], (batch, length + 1), device=device)

    def step() -> float:
        """The seconds of a step, until its loss is known."""
        started = time.perf_counter()
        with torch.autocast(device, torch.bfloat16):
            _, loss = compiled(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        return time.perf_counter() - started

    compile_s = sum(step() for _ in range(WARMUP_STEPS))
    seconds = statistics.median(step() for _ in range(shapes["steps"]))
    rate = batch * length / seconds
    flops = ModelConfig(**model_options(shapes)).flops_per_token(length)
    datasheet = find_datasheet(torch.cuda.get_device_name()) if device == "cuda" else None
    peak = datasheet.peak_flops("bfloat16") if datasheet else None
    emit(
        kind="train", system="nanoGPT, torch.compile", batch=batch, ms_per_step=1e3 * seconds,
        tokens_per_s=rate, compile_s=compile_s - WARMUP_STEPS * seconds, peak_memory=memory(),
        flops_per_token=flops, **({"datasheet_mfu": rate * flops / peak} if peak else {}),
    )  # fmt: skip


def nanogpt_model(job: dict[str, Any]) -> Any:
    import torch

    spec = importlib.util.spec_from_file_location("nanogpt_model", job["file"])
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = True  # as nanoGPT's train.py
    torch.backends.cudnn.allow_tf32 = True
    shapes = job["shapes"]
    return module.GPT(
        module.GPTConfig(
            block_size=shapes["max_length"], vocab_size=shapes["vocab_size"],
            n_layer=shapes["num_layers"], n_head=shapes["num_heads"], n_embd=shapes["hidden_dim"],
            dropout=0.0, bias=False,
        )
    )  # fmt: skip


def decode(job: dict[str, Any]) -> None:
    """kgpt's model runner, greedy; the rows come again with the shares of the peaks."""
    from kgpt import GPT, ModelConfig
    from kgpt.generation.bench import batch_figures, describe, shares
    from kgpt.generation.loading import build_for_inference

    shapes, system = job["shapes"], f"{LABELS[job['backend']]} bfloat16"
    config = ModelConfig(**model_options(shapes))
    model = build_for_inference(functools.partial(GPT, config, seed=1), "bfloat16")
    rows = []
    for size in shapes["decode_batch_sizes"]:
        row = batch_figures(model, size, shapes["prompt_tokens"], shapes["new_tokens"], REPEATS)
        rows.append({"kind": "decode", "system": system, **row})
        emit(**rows[-1])
    peaks = describe(model)
    for row in rows:
        emit(**row, **peaks, **shares(row, peaks))


def transformers(job: dict[str, Any]) -> None:
    """transformers' `generate` with a dynamic cache, or a static one, which it compiles."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    shapes, device = job["shapes"], job["shapes"]["device"]
    config = GPT2Config(
        vocab_size=shapes["vocab_size"], n_positions=shapes["max_length"],
        n_embd=shapes["hidden_dim"], n_layer=shapes["num_layers"], n_head=shapes["num_heads"],
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval().to(device, torch.bfloat16)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    options = {"cache_implementation": "static"} if job["cache"] == "static" else {}
    compiled = ", compiled" if job["cache"] == "static" else ""

    def seconds(size: int, new_tokens: int) -> float:
        prompts = np.random.default_rng(0).integers(
            0, shapes["vocab_size"], (size, shapes["prompt_tokens"])
        )
        ids = torch.from_numpy(prompts).long().to(device)
        times = []
        for _ in range(REPEATS + 2):  # the first two compile
            started = time.perf_counter()
            with torch.inference_mode():
                model.generate(ids, max_new_tokens=new_tokens, do_sample=False, **options).tolist()
            times.append(time.perf_counter() - started)
        return min(times[2:])

    for size in shapes["decode_batch_sizes"]:
        count = shapes["new_tokens"]
        whole = seconds(size, count)
        row = {
            "kind": "decode", "system": f"transformers bfloat16, {job['cache']} cache{compiled}",
            "batch": size, "tokens_per_s": size * count / whole, "peak_memory": memory(),
        }  # fmt: skip
        emit(**row)
        first = seconds(size, 1)
        per_token = (whole - first) / (count - 1)
        emit(**row, first_token_ms=1e3 * first, ms_per_token=1e3 * per_token)


def model_options(shapes: dict[str, Any]) -> dict[str, Any]:
    names = ("num_layers", "num_heads", "hidden_dim", "max_length", "vocab_size")
    return {"bias": False, **{name: shapes[name] for name in names}}


def memory() -> int | None:
    """The most bytes in tensors on the GPU so far; None without one."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
