"""Fine-tuning steps at GPT-2's shape: kgpt's LoRA, kgpt's full fine-tuning and PEFT's LoRA.

    python -m benchmarks.finetune_speed [--rounds 5] [--only "kgpt jax,peft"] [--markdown FILE]

All systems read one directory of random weights and train on one batch of random tokens with AdamW
and gradients clipped at 1, in the same precision, without dropout; they must agree on the first
loss. Adapters have rank 8 on every matrix product of the blocks (`--target-modules` for others).
PEFT's model is transformers', in the usual training loop, as it is and under torch.compile.

Each system runs in its own process and makes a few steps in turn, for several rounds, while the
others are suspended. Every round is printed as a JSON line; ratios are medians over rounds. Memory
is the most that a system's process held: with 8 systems GPT-2's shape needs about 20 GB.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

BACKENDS = ("jax", "tensorflow", "torch")
SYSTEMS = (
    *(f"kgpt {backend} {method}" for backend in BACKENDS for method in ("lora", "full")),
    "peft",
    "peft compiled",
)
BASELINE = "peft"
SHAPES = {  # layers, heads, width, vocabulary
    "gpt2": (12, 12, 768, 50257),
    "tiny": (2, 2, 32, 512),
}
WARM_UP, CONTEXT = 3, 1024
ADAMW = {"lr": 2e-4, "betas": (0.9, 0.999), "weight_decay": 0.0}
MAX_GRAD_NORM = 1.0
SAME_LOSS = {"float32": 1e-4, "bfloat16": 2e-2}  # relative


def peak_resident_bytes() -> int:
    """The most bytes that this process has held in physical memory since it was last executed."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@dataclass
class System:
    """One system under test, in its own process, suspended unless it is measured."""

    name: str
    process: subprocess.Popen[str]
    parameters: int = 0  # that are trained
    first_loss: float = math.nan
    peak_bytes: int = 0
    ms: list[float] = field(default_factory=list)  # a step, of each round
    failure: str | None = None

    @classmethod
    def start(cls, name: str, job: dict[str, Any]) -> System:
        """Start and compile it."""
        backend = name.split()[1] if name.startswith("kgpt") else "torch"
        command = [sys.executable, "-m", "benchmarks.finetune_speed", "--job", json.dumps(job)]
        environment = {k: v for k, v in os.environ.items() if k != "KGPT_RESTARTED"}
        process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=environment | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )  # fmt: skip
        system = cls(name, process)
        if answer := system._answer():
            system.parameters, system.first_loss = answer["parameters"], answer["loss"]
        return system

    def measure(self, steps: int) -> float | None:
        """Milliseconds of a step."""
        if self.failure is not None:
            return None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = self._answer()
        if answer:
            self.ms.append(answer["ms"])
            self.peak_bytes = answer["peak_bytes"]
        return answer.get("ms")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            self.failure = f"its process ended with exit code {self.process.wait()}"
            return {}
        self.process.send_signal(signal.SIGSTOP)
        return json.loads(line)


def main() -> None:
    options = parse_arguments()
    if options.job:
        return work(json.loads(options.job))
    wanted = tuple(options.only.split(",")) if options.only else ("",)
    names = [name for name in SYSTEMS if name.startswith(wanted)]
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="kgpt-bench-") as folder:
        write_model(Path(folder), options.shape)
        systems = start(names, folder, options, console)
        check_losses(systems, options.precision)
        measure(systems, options.rounds, options.steps)
    rows = [figures(system, systems, options) for system in systems if system.ms]
    report(rows, options)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="gpt2", help="tiny shows that it works")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--precision", choices=list(SAME_LOSS), default="float32")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument(
        "--target-modules", default="all-linear", help="such as c_attn, PEFT's default for GPT-2"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="of a system in a round")
    parser.add_argument("--only", default="", help=f"comma-separated prefixes of {SYSTEMS}")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser.parse_args()


def write_model(folder: Path, shape: str) -> None:
    """Random weights of a shape, written by transformers in a process that then ends."""
    layers, heads, width, vocabulary = SHAPES[shape]
    program = (
        "import torch, transformers; torch.manual_seed(0); "
        f"config = transformers.GPT2Config(n_layer={layers}, n_head={heads}, n_embd={width}, "
        f"vocab_size={vocabulary}, n_positions={CONTEXT}, bos_token_id=0, eos_token_id=0, "
        "resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0); "
        f"transformers.GPT2LMHeadModel(config).save_pretrained({str(folder)!r})"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stderr=subprocess.DEVNULL)


def start(
    names: list[str], folder: str, options: argparse.Namespace, console: Console
) -> list[System]:
    job, systems = vars(options) | {"folder": folder, "markdown": None}, []
    for name in names:
        console.print(f"{name} compiles", style="dim")
        systems.append(System.start(name, job | {"name": name}))
        if systems[-1].failure:
            console.print(f"{name}: {systems[-1].failure}")
    return systems


def check_losses(systems: list[System], precision: str) -> None:
    """End unless all systems computed the same loss before their first update."""
    losses = {s.name: s.first_loss for s in systems if s.failure is None}
    if losses and max(losses.values()) > min(losses.values()) * (1 + SAME_LOSS[precision]):
        for system in systems:
            system.stop()
        raise SystemExit(f"The systems do not train the same model; their first losses: {losses}")


def measure(systems: list[System], rounds: int, steps: int) -> None:
    """Let each system make some steps, in turn, backwards in every other round."""
    for number in range(rounds):
        order = systems[::-1] if number % 2 else systems
        ms = {system.name: system.measure(steps) for system in order}
        print(json.dumps({"round": number + 1, "ms": ms}), flush=True)
    for system in systems:
        system.stop()


# -- the figures -----------------------------------------------------------------------------------


def figures(system: System, systems: list[System], options: argparse.Namespace) -> dict[str, Any]:
    by_name = {other.name: other for other in systems}
    full = by_name.get(system.name.replace("lora", "full"))
    baseline = by_name.get(BASELINE)
    ms = statistics.median(system.ms)
    return {
        "system": system.name,
        "trained_parameters": system.parameters,
        "ms_per_step": round(ms, 2),
        "tokens_per_s": round(options.batch_size * options.length / ms * 1000),
        "share_of_full_step": ratio(system, full) if full is not system else None,
        "speed_beside_peft": ratio(baseline, system),
        "peak_bytes": system.peak_bytes,
    }


def ratio(one: System | None, other: System | None) -> float | None:
    """The median over rounds of one's time by another's of the same round."""
    if one is None or other is None or len(one.ms) != len(other.ms):
        return None
    return round(statistics.median(a / b for a, b in zip(one.ms, other.ms, strict=True)), 3)


HEADINGS = ("system", "trained", "ms/step", "tokens/s", "of full step", "speed", "peak memory")


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    share, speed = row["share_of_full_step"], row["speed_beside_peft"]
    return (
        row["system"],
        f"{row['trained_parameters'] / 1e6:.2f}M",
        f"{row['ms_per_step']:,.1f}",
        f"{row['tokens_per_s']:,}",
        "-" if share is None else f"{share:.2f}",
        "-" if speed is None else f"{speed:.2f}x",
        f"{row['peak_bytes'] / 2**30:.2f} GiB",
    )


def report(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    title = (
        f"{options.shape}, batch {options.batch_size} x {options.length}, {options.precision}, "
        f"rank {options.rank} on {options.target_modules}; speed beside {BASELINE}"
    )
    table = Table(*HEADINGS, title=title)
    lines = [f"| {' | '.join(HEADINGS)} |", "|---|" + "---:|" * (len(HEADINGS) - 1)]
    for row in rows:
        table.add_row(*cells(row))
        lines.append(f"| {' | '.join(cells(row))} |")
    Console().print(table)
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


# -- a system in its own process -------------------------------------------------------------------


def work(job: dict[str, Any]) -> None:
    """Compile, then answer each number N on standard input with the median time of N steps."""
    from kgpt.cli.environment import prepare_process

    if job["name"].startswith("kgpt"):
        prepare_process()  # may start this process anew
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep other output off standard output
    parameters, run = (kgpt if job["name"].startswith("kgpt") else peft)(job)
    ready = {"parameters": parameters, "loss": run(1)[0][1]}
    run(WARM_UP)
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        ms = 1000 * statistics.median(seconds for seconds, _ in run(int(line)))
        answer = {"ms": round(ms, 2), "peak_bytes": peak_resident_bytes()}
        print(json.dumps(answer), file=answers, flush=True)


def kgpt(job: dict[str, Any]):
    """Steps of `model.fit`, as `kgpt finetune` makes them."""
    from kgpt.config import Config
    from kgpt.training.base_model import count_trainable, load_base_model, with_base_model
    from kgpt.training.bench import RepeatedBatch, StepClock
    from kgpt.training.task import compile_model, next_token_loss

    class LossClock(StepClock):
        def on_train_begin(self, logs=None):
            super().on_train_begin(logs)
            self.losses = []

        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            self.losses.append(float(logs["loss"]))

    changes = {
        "finetune.model": job["folder"], "train.precision": job["precision"],
        "train.learning_rate": ADAMW["lr"], "train.max_grad_norm": MAX_GRAD_NORM,
    }  # fmt: skip
    method = job["name"].split()[-1]
    if method == "lora":
        modules = job["target_modules"]
        modules = modules if modules == "all-linear" else modules.split(",")
        changes |= {"lora.rank": job["rank"], "lora.dropout": 0, "lora.target_modules": modules}
    config = with_base_model(Config.load(method, changes))
    model = load_base_model(config)
    compile_model(model, config.train, next_token_loss(config))
    vocabulary = SHAPES[job["shape"]][-1]
    batches, clock = RepeatedBatch(vocabulary, job["batch_size"], job["length"]), LossClock()

    def run(steps: int) -> list[tuple[float, float]]:
        batches.repeats = steps
        model.fit(batches, callbacks=[clock], shuffle=False, verbose=0)
        return list(zip(clock.times, clock.losses, strict=True))

    return count_trainable(model), run


def peft(job: dict[str, Any]):
    """Steps of transformers' model with PEFT's adapters, in the usual training loop."""
    import numpy as np
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    modules = job["target_modules"]
    lora = LoraConfig(
        r=job["rank"], lora_alpha=2 * job["rank"], lora_dropout=0.0, task_type="CAUSAL_LM",
        target_modules=modules if modules == "all-linear" else modules.split(","),
    )  # fmt: skip
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(job["folder"]), lora).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, **ADAMW)
    forward = torch.compile(model) if job["name"].endswith("compiled") else model
    shape = (job["batch_size"], job["length"] + 1)  # the tokens of RepeatedBatch
    tokens = np.random.default_rng(0).integers(0, SHAPES[job["shape"]][-1], shape, "int32")
    inputs, targets = torch.tensor(tokens[:, :-1]).long(), torch.tensor(tokens[:, 1:]).long()
    low = job["precision"] == "bfloat16"

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            logits = forward(input_ids=inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def run(steps: int) -> list[tuple[float, float]]:
        found = []
        for _ in range(steps):
            start = time.perf_counter()
            loss = step()
            found.append((time.perf_counter() - start, loss))
        return found

    return sum(p.numel() for p in trained), run


if __name__ == "__main__":
    main()
