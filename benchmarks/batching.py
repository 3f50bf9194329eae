"""Sixteen requests through the engine: all at once beside one after another, alternating.

    KERAS_BACKEND=jax python -m benchmarks.batching [--rounds 3] [--preset gpt2]

Random weights, a prompt of 32 tokens and 64 new ones, greedy, compiled beforehand.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time

from kgpt.cli.environment import prepare_process

REQUESTS, PROMPT, NEW, VOCABULARY = 16, 32, 64, 50257


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", default="gpt2")
    options = parser.parse_args()
    prepare_process()
    from kgpt import GPT
    from kgpt.config import Config
    from kgpt.generation.engine import Engine

    shape = Config.load(options.preset).model.model_copy(update={"vocab_size": VOCABULARY})
    engine = Engine(GPT(shape, seed=1), max_num_seqs=REQUESTS)
    run(engine, 0, together=True)
    run(engine, 1, together=False)
    ratios = []
    for number in range(options.rounds):
        together = run(engine, 2 * number + 2, together=True)
        alone = run(engine, 2 * number + 3, together=False)
        ratios.append(together / alone)
        print(f"together {together:.2f} s, one by one {alone:.2f} s, {ratios[-1]:.3f}", flush=True)
    print(f"median {statistics.median(ratios):.3f}")
    engine.close()


def run(engine, seed: int, together: bool) -> float:
    """Seconds until all are finished; a new seed, so that no prompt is in the KV cache."""
    begun = time.perf_counter()
    waiting = []
    for request in requests(seed):
        done = threading.Event()
        engine.submit(
            request,
            lambda job, tokens, finish, done=done: done.set() if finish else None,
            stream=False,
        )
        waiting.append(done)
        if not together:
            done.wait()
    for done in waiting:
        done.wait()
    return time.perf_counter() - begun


def requests(seed: int):
    import numpy as np

    from kgpt.config import SamplingConfig
    from kgpt.generation.sequence import Request

    prompts = np.random.default_rng(seed).integers(0, VOCABULARY, (REQUESTS, PROMPT))
    greedy = SamplingConfig(temperature=0, max_tokens=NEW)
    return [Request(ids.tolist(), greedy) for ids in prompts]


if __name__ == "__main__":
    main()
