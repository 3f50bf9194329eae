"""`kgpt bench draft`: what a draft model gains in speculative decoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.cli.options import Dtype, MemoryFraction, StrictInt
from kgpt.config import DtypeOption
from kgpt.errors import UsageError
from kgpt.runs import resolve_model

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 8, 32, 64


def bench_draft(
    *,
    model: str,
    draft_model: str,
    data: str,
    prompts: StrictInt = PROMPTS,
    prompt_tokens: StrictInt = PROMPT_TOKENS,
    new_tokens: StrictInt = NEW_TOKENS,
    temperature: float = 0.0,
    dtype: Dtype = "auto",
    memory_fraction: MemoryFraction = None,
    json_line: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Measure speculative decoding with a draft model.

    One prompt after the other is continued with the draft and without. Shown are the share of
    drafted tokens that the model accepts, the tokens gained per verification, and tokens a second.

    Parameters
    ----------
    model
        A model directory, a run (its best checkpoint), or run@step.
    draft_model
        A smaller one with the same tokenizer.
    data
        A data set, of whose validation split the prompts are pieces, or a text file.
    prompts
        Number of prompts.
    prompt_tokens
        Tokens of each prompt.
    new_tokens
        Tokens generated after each prompt.
    temperature
        Of sampling; 0 is greedy.
    json_line
        Print one JSON object.
    """
    if min(prompts, prompt_tokens) < 1 or new_tokens < 2 or temperature < 0:
        raise UsageError(
            "--prompts and --prompt-tokens must be at least 1, --new-tokens 2, --temperature 0."
        )
    folder, draft_folder = resolve_model(model), resolve_model(draft_model)
    prepare_process(memory_fraction)
    silence_native_code()
    sizes = (prompts, prompt_tokens, new_tokens)
    with Console(stderr=True).status("measuring; compiling comes first"):
        figures = draft_figures(folder, draft_folder, data, sizes, temperature, dtype)
    print(json.dumps(figures) if json_line else describe_draft(figures))


def draft_figures(
    folder: Path,
    draft_folder: Path,
    data: str,
    sizes: tuple[int, int, int] = (PROMPTS, PROMPT_TOKENS, NEW_TOKENS),
    temperature: float = 0.0,
    dtype: DtypeOption = "auto",
) -> dict[str, Any]:
    """The figures of `measure_draft` for two model directories.

    Args:
        sizes: number of prompts, tokens of each, tokens generated after each.
    """
    import numpy as np

    from kgpt.evaluation.perplexity import validation_tokens
    from kgpt.generation.bench_draft import measure_draft
    from kgpt.generation.loading import load_for_inference

    stream, _ = validation_tokens(data, folder)
    count, length, new_tokens = sizes
    if len(stream) < length:
        raise UsageError(f"{data} has {len(stream)} tokens to take prompts from; {length} needed.")
    starts = np.linspace(0, len(stream) - length, count).astype("int64")
    pieces = stream.windows(starts, length).tolist()
    model, draft = (load_for_inference(path, dtype) for path in (folder, draft_folder))
    if model.max_length < length + new_tokens:
        raise UsageError(
            f"The context of {folder} is {model.max_length} tokens; lower --prompt-tokens "
            "or --new-tokens."
        )
    return measure_draft(model, draft, pieces, new_tokens, temperature)


def describe_draft(figures: dict[str, Any]) -> str:
    """The figures in a few words."""
    return (
        f"accepted {figures['acceptance_rate']:.1%} of the drafted tokens, "
        f"{figures['tokens_per_verification']:.2f} tokens per verification; "
        f"{figures['tokens_per_s_with_draft']:,.0f} tokens/s with the draft, "
        f"{figures['tokens_per_s']:,.0f} without: {figures['speedup']:.2f} times"
    )
