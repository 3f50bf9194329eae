"""`kgpt bench train`: training throughput of a configuration."""

from __future__ import annotations

import json
import statistics
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from kgpt.cli.environment import prepare_process
from kgpt.cli.options import StrictInt
from kgpt.cli.train import FLAGS
from kgpt.config import Config, parse_overrides
from kgpt.errors import UsageError

WARMUP_STEPS = 2  # compilation
DEFAULT_VOCAB_SIZE = 50257  # if the configuration leaves it to the data set


def bench_train(
    config: str,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    steps: StrictInt = 20,
    json_line: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Measure training steps on random tokens; nothing is saved.

    Parameters
    ----------
    config
        A preset or a YAML file; any key can be set, as with `kgpt train`.
    steps
        Steps measured, after two for compilation.
    json_line
        Print one JSON object.
    """
    if steps < 1:
        raise UsageError("--steps must be at least 1.")
    resolved = Config.load(config, parse_overrides(overrides, [*FLAGS, "--steps", "--json"]))
    prepare_process()
    with Console(stderr=True).status("measuring; compiling comes first"):
        figures = {"config": config, **_measure(resolved, steps)}
    if json_line:
        print(json.dumps(figures))
        return
    Console().print(
        f"{config}: {figures['parameters'] / 1e6:.2f} M parameters on {figures['backend']}, "
        f"{figures['precision']}\n"
        f"{figures['ms_per_step']:.1f} ms a step, {figures['tokens_per_s']:,.0f} tokens/s, "
        f"{figures['mfu']:.0%} of the matrix-product peak "
        f"({figures['peak'] / 1e9:,.0f} GFLOP/s); compiled in {figures['compile_s']:.1f} s",
        highlight=False,
    )


def _measure(config: Config, steps: int) -> dict[str, Any]:
    from kgpt import GPT, NextTokenLoss, backend
    from kgpt.backend.peak import matmul_peak
    from kgpt.training.bench import RepeatedBatch, StepClock
    from kgpt.training.optimizers import make_optimizer

    train = config.train
    model_config = config.model
    if model_config.vocab_size is None:
        model_config = model_config.model_copy(update={"vocab_size": DEFAULT_VOCAB_SIZE})
    peak = matmul_peak(train.precision)
    model = GPT(model_config, seed=train.seed, dtype=train.dtype_policy)
    model.compile(optimizer=make_optimizer(train), loss=NextTokenLoss())
    batches = RepeatedBatch(
        model_config.known_vocab_size,
        train.batch_size,
        model_config.max_length,
        steps + WARMUP_STEPS,
    )
    clock = StepClock()
    model.fit(batches, verbose=0, callbacks=[clock], shuffle=False)
    seconds = statistics.median(clock.times[WARMUP_STEPS:])
    tokens = train.batch_size * model_config.max_length
    return {
        "backend": backend.name,
        "precision": train.precision,
        "parameters": model_config.num_parameters(),
        "ms_per_step": 1e3 * seconds,
        "tokens_per_s": tokens / seconds,
        "peak": peak,
        "mfu": tokens * model_config.flops_per_token() / seconds / peak,
        "compile_s": sum(clock.times[:WARMUP_STEPS]) - WARMUP_STEPS * seconds,
    }
