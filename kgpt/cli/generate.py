"""`kgpt generate`: continue a prompt, or a file of prompts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from kgpt.cli import options
from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.cli.options import SamplingFlags, Whole
from kgpt.config import InferenceDtype, SamplingConfig
from kgpt.errors import UsageError
from kgpt.runs import resolve_model
from kgpt.text.terminal_text import for_output

RULE = "─" * 40


def generate(
    *,
    model: str,
    prompt: str | None = None,
    template: str | None = None,
    field: Annotated[list[str] | None, Parameter(negative="")] = None,
    input_file: str | None = None,
    output_file: str | None = None,
    num_samples: Whole = 1,
    draft_model: str | None = None,
    prompt_lookup: Annotated[bool, Parameter(negative="")] = False,
    max_num_seqs: Whole = 16,
    dtype: InferenceDtype = "float32",
    stream: Annotated[bool, Parameter(negative="--no-stream")] = True,
    json_lines: Annotated[bool, Parameter(name="--json", negative="")] = False,
    sampling: SamplingFlags = options.NONE,
) -> None:
    """Write text with a trained model.

    Parameters
    ----------
    model
        A model directory, a run (its best checkpoint), or run@step.
    prompt
        What the text begins with; - reads it from standard input.
    template
        A prompt template by name, such as story or code, or a YAML file; see --field.
    field
        A template's field as name=value; may be given several times.
    input_file
        Prompts, one a line, or JSON lines with a "prompt"; - is standard input.
    output_file
        Where the answers to --input-file go, as JSON lines. What is there already is kept, and an
        interrupted job goes on where it stopped.
    num_samples
        How many continuations of the prompt; their seeds count up.
    draft_model
        Speculative decoding with a smaller model of the same tokenizer: the same text, sooner.
    prompt_lookup
        Speculative decoding from the text itself: the same text, sooner where it repeats.
    max_num_seqs
        How many sequences are decoded at once.
    dtype
        What weights are held in and computed with; int8 holds matrices in 8 bits.
    stream
        Show the text as it is written.
    json_lines
        Print one JSON object a continuation.
    """
    folder = resolve_model(model)
    changes = options.given(sampling)
    if input_file is not None:
        if prompt is not None or template is not None:
            raise UsageError("--input-file brings its own prompts; leave out --prompt, --template.")
        if output_file is None:
            raise UsageError("--input-file needs --output-file; - writes to standard output.")
    elif (prompt is None) == (template is None):
        raise UsageError("Give --prompt, --template or --input-file.")
    if num_samples < 1 or max_num_seqs < 1:
        raise UsageError("--num-samples and --max-num-seqs must be at least 1.")
    if template is not None:
        from kgpt.text.prompts import fill_template

        prompt = fill_template(template, field or [])
    draft_folder = resolve_model(draft_model) if draft_model else None
    prepare_process()
    silence_native_code()
    if prompt == "-":
        prompt = sys.stdin.read()
    from kgpt.generation.generator import TextGenerator

    draft: Any = "prompt_lookup" if prompt_lookup else None
    if draft_folder:
        draft = _load_draft_model(folder, draft_folder, dtype)
    with TextGenerator(folder, max_num_seqs=max_num_seqs, draft_model=draft, dtype=dtype) as engine:
        settings = options.over(engine.default_sampling, changes)
        if input_file is not None:
            from kgpt.cli.generate_file import complete_file

            complete_file(engine, settings, input_file, str(output_file))
        else:
            _continue(engine, prompt or "", settings, num_samples, stream, json_lines)


def _continue(
    engine: Any, prompt: str, settings: SamplingConfig, count: int, stream: bool, as_json: bool
) -> None:
    """Print `count` continuations of one prompt."""
    if as_json:
        for completion in engine.generate_batch([prompt] * count, settings):
            print(json.dumps(completion.as_dict(prompt), ensure_ascii=False), flush=True)
    elif count == 1 and stream:
        sys.stdout.write(for_output(prompt))
        for event in engine.stream(prompt, settings):
            sys.stdout.write(for_output(event.text))
            sys.stdout.flush()
            if event.error:
                raise UsageError(event.error)
        print()
    else:
        texts = engine.generate_batch([prompt] * count, settings)
        shown = (for_output(f"{prompt}{completion.text}") for completion in texts)
        print(f"\n{RULE}\n".join(shown))


def _load_draft_model(folder: Path, draft_folder: Path, dtype: InferenceDtype) -> Any:
    """The draft model, if its tokenizer is the model's."""
    from kgpt.generation.load import check_same_tokenizer
    from kgpt.generation.loading import load_for_inference

    check_same_tokenizer(folder, draft_folder)
    return load_for_inference(draft_folder, dtype)
