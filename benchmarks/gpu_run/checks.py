"""What must hold on a GPU: it works, tests pass, a killed run resumes, text equals the CPU's."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_run.worker import emit

PACKAGES = ("kgpt", "keras", "jax", "torch", "tensorflow", "transformers", "numpy")
QUERY = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm")
OUTCOME = re.compile(r"(?:\[(gw\d+)\] \[ *\d+%\] )?(PASSED|FAILED|ERROR|SKIPPED) (\S+::.+)")
SUMMARY = re.compile(r"(?:FAILED|ERROR) (\S+::.+?) - (.+)")
GREEDY_TOKENS = 100


def facts(job: dict[str, Any]) -> None:
    """The GPU, its driver, and the versions of the packages."""
    row: dict[str, Any] = {"python": platform.python_version(), "cpus": os.cpu_count()}
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if job["shapes"]["device"] == "cuda":
        command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader"]
        line = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        values = [value.strip() for value in line.splitlines()[0].split(",")]
        row |= dict(zip(QUERY, values, strict=True))
    else:
        row["name"] = "CPU"
    emit(kind="facts", versions=versions, commit=commit(), **row)


def commit() -> str | None:
    """The commit of this tree: from the bundle, or from git."""
    written = Path("COMMIT")
    if written.is_file():
        return written.read_text().strip()
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def smoke(job: dict[str, Any]) -> None:
    """A small model generates, trains and generates again, in each precision."""
    from kgpt import GPT, ModelConfig, backend
    from kgpt.config import Config
    from kgpt.training.bench import batch_figures

    on_gpu = backend.device()[0] == "gpu"
    expects_gpu = job["shapes"]["device"] == "cuda"
    if on_gpu != expects_gpu:
        raise RuntimeError(f"{job['backend']} runs on {backend.device()}")
    shape = {"num_layers": 2, "num_heads": 2, "hidden_dim": 128, "max_length": 64,
             "vocab_size": 256}  # fmt: skip
    for precision in ("bfloat16", "float32"):
        train = {"precision": precision, "batch_size": 2}
        config = Config.parse({"model": shape, "train": train})
        list(batch_figures(config, [2], 2))
        model = GPT(ModelConfig(**shape), seed=1, dtype=config.train.dtype_policy)
        ids = model.generate([1, 2, 3], max_tokens=20, temperature=0)
        assert len(ids) == 23, ids
        emit(kind="check", check=f"trains and generates, {precision}", backend=job["backend"],
             ok=True, detail=str(backend.device()[1]))  # fmt: skip


def tests(job: dict[str, Any]) -> None:
    """The tests of model, generation and training; reports what has ended when it is stopped."""
    cache = Path(job["work"]) / "jax-cache"
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        "COLUMNS": "400",  # pytest cuts its messages to the width of the terminal
    }  # fmt: skip
    command = [
        sys.executable, "-m", "pytest", "-v", "--tb=line", "-p", "no:cacheprovider",
        "--import-mode=importlib", "-o", "addopts=", "-m", "backend and not slow and not proof",
        "-n", str(job["workers"]), "--dist", "loadfile", *job["shapes"]["tests"],
    ]  # fmt: skip
    outcomes: dict[str, str] = {}
    messages: dict[str, str] = {}
    first: dict[str, str] = {}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    finished = True
    try:
        for line in process.stdout:
            print(line, end="")
            read_outcome(line, outcomes, messages, first)
        process.wait()
    except KeyboardInterrupt:
        finished = False
    counts = {kind: list(outcomes.values()).count(kind) for kind in ("PASSED", "SKIPPED")}
    failed = {name: messages.get(name, "") for name, kind in outcomes.items() if kind in BAD}
    emit(kind="tests", backend=job["backend"], passed=counts["PASSED"], skipped=counts["SKIPPED"],
         failed=failed, first_failures=first, finished=finished)  # fmt: skip
    if finished and process.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {process.returncode}")


BAD = ("FAILED", "ERROR")


def read_outcome(
    line: str, outcomes: dict[str, str], messages: dict[str, str], first: dict[str, str]
) -> None:
    """Record the outcome of a test, or the message of a failed one, from a line of pytest.

    `first` gets the first failed test of each worker: an error of CUDA that lasts makes all later
    tests of a process fail.
    """
    line = line.strip()
    if match := SUMMARY.fullmatch(line):
        messages[match[1]] = match[2][:200]
        outcomes[match[1]] = outcomes.get(match[1], "FAILED")
    elif (match := OUTCOME.fullmatch(line)) and outcomes.get(match[3]) not in BAD:
        outcomes[match[3]] = match[2]
        if match[2] in BAD:
            first.setdefault(match[1] or "alone", match[3])


def resume(job: dict[str, Any]) -> None:
    """A run killed with SIGKILL and resumed logs the losses of a run never killed."""
    folder = Path(job["work"]) / job["backend"]
    steps = job["shapes"]["killed_run_steps"]
    prepare_run(folder, steps)
    finish(train_process(folder, "whole"))
    process = train_process(folder, "killed")
    wait_for_losses(process, folder, "killed", steps // 3)
    process.kill()
    process.wait()
    killed_after = len(losses(folder, "killed"))
    finish(train_process(folder, "killed", "--resume"))
    whole, killed = losses(folder, "whole"), losses(folder, "killed")
    different = [step for step in whole if whole[step] != killed.get(step)]
    detail = f"killed after step {killed_after} of {steps}"
    if different:
        first = different[0]
        detail += f"; {len(different)} losses differ, the first at step {first}: "
        detail += f"{whole[first]} and {killed.get(first)}"
    ok = not different and len(whole) == steps
    emit(kind="check", check="a run killed and resumed repeats its losses",
         backend=job["backend"], ok=ok, detail=detail)  # fmt: skip


def prepare_run(folder: Path, steps: int) -> None:
    """A data set of numbers in words, and a configuration with dropout."""
    folder.mkdir(parents=True)
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    lines = (" ".join(words[int(digit)] for digit in str(number)) for number in range(3000))
    (folder / "text.txt").write_text("\n".join(lines))
    finish(kgpt(folder, "data", "prepare", "text.txt", "--out", "data", "--tokenizer", "byte"))
    options = {
        "max_steps": steps, "checkpoint_every": 20, "batch_size": 8, "sample_every": steps // 2,
        "eval_every": 0, "log_every": 1, "learning_rate": 0.003, "warmup_steps": 10,
    }  # fmt: skip
    shape = {
        "num_layers": 2, "num_heads": 2, "hidden_dim": 128, "max_length": 128, "dropout": 0.1,
        "position": "rotary",
    }  # fmt: skip
    config = {"model": shape, "train": options, "data": {"dir": "data"}}
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML


def greedy(job: dict[str, Any]) -> None:
    """Greedy text of the run that `resume` trained, on the GPU and on the CPU."""
    folder = Path(job["work"]) / job["backend"]
    if not (folder / "runs" / "whole" / "checkpoints").is_dir():
        raise RuntimeError("the part before it trained no model")
    command = ["generate", "--model", "whole", "--temperature", "0", "--json"]
    command += ["--max-tokens", str(GREEDY_TOKENS), "--prompt", "one two"]
    on_cpu = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    processes = [kgpt(folder, *command, **extra) for extra in ({}, on_cpu)]
    here, cpu = (json.loads(finish(process).splitlines()[-1])["text"] for process in processes)
    detail, ok = f"{GREEDY_TOKENS} tokens", here == cpu
    if not ok:
        detail += f"; GPU {here!r}, CPU {cpu!r}"[:400]
    emit(kind="check", check="greedy text on the GPU is the CPU's", backend=job["backend"], ok=ok,
         detail=detail)  # fmt: skip


# -- commands of kgpt ---------------------------------------------------------------------------


def kgpt(folder: Path, *arguments: str, **extra: str) -> subprocess.Popen[str]:
    """Start a command of kgpt in `folder`."""
    environment = os.environ | {"KGPT_RUNS": str(folder / "runs")} | extra
    return subprocess.Popen(
        [sys.executable, "-m", "kgpt", *arguments], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    """What the command prints; raises with its last error if it fails."""
    out, error = process.communicate()
    if process.returncode:
        last = (error.strip().splitlines() or ["it printed nothing"])[-1]
        raise RuntimeError(f"{' '.join(process.args[2:5])} ended with {process.returncode}: {last}")
    return out


def train_process(folder: Path, run: str, *options: str) -> subprocess.Popen[str]:
    return kgpt(folder, "train", "config.yaml", "--run", run, "--quiet", *options)


def losses(folder: Path, run: str) -> dict[int, float]:
    """The logged loss of each step."""
    file = folder / "runs" / run / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def wait_for_losses(process: subprocess.Popen[str], folder: Path, run: str, count: int) -> None:
    file = folder / "runs" / run / "metrics.jsonl"
    while (file.read_bytes().count(b"\n") if file.exists() else 0) < count:
        if process.poll() is not None:
            finish(process)
            raise RuntimeError("the run ended before it could be killed")
        time.sleep(0.002)
