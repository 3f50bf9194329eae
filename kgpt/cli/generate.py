"""`kgpt generate`: continue a prompt."""

from __future__ import annotations

import json
import sys
from typing import Annotated

from cyclopts import Parameter

from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.config import SamplingConfig
from kgpt.runs import resolve_model


def generate(
    *,
    model: str,
    prompt: str,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    stop: list[str] | None = None,
    num_samples: int = 1,
    json_lines: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Write text with a trained model.

    Parameters
    ----------
    model
        A model directory, a run (its best checkpoint), or run@step.
    prompt
        What the text begins with; - reads it from standard input.
    max_tokens
        Most tokens to write.
    temperature
        Below 1 is safer, above 1 wilder; 0 takes the likeliest.
    top_k
        Keep the k likeliest tokens; 0 keeps all.
    top_p
        Keep the likeliest tokens that reach this probability.
    min_p
        Drop tokens less likely than this share of the likeliest.
    repetition_penalty
        Above 1 makes tokens already present less likely.
    seed
        The same seed writes the same text.
    stop
        A string that ends the text; may be given several times.
    num_samples
        How many continuations.
    json_lines
        Print one JSON object a continuation.
    """
    given = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stop": stop,
    }
    folder = resolve_model(model)
    changes = {name: value for name, value in given.items() if value is not None}
    SamplingConfig.parse(changes)
    prepare_process()
    silence_native_code()
    if prompt == "-":
        prompt = sys.stdin.read()
    from kgpt.generation.text import TextGenerator

    generator = TextGenerator(folder)
    config = SamplingConfig.parse(generator.defaults.model_dump() | changes)
    if json_lines:
        for completion in generator.complete([prompt] * num_samples, config):
            print(json.dumps(completion.as_dict(), ensure_ascii=False), flush=True)
    elif num_samples == 1:
        sys.stdout.write(prompt)
        generator.complete([prompt], config, on_text=lambda row, text: _write(text))
        print()
    else:
        for completion in generator.complete([prompt] * num_samples, config):
            print(f"{prompt}{completion.text}\n{'─' * 40}")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
