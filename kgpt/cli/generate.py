"""`kgpt generate`: completions of a prompt or of a file of prompts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from kgpt.cli import options, structured_output
from kgpt.cli.adapters import parse_adapters
from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.cli.options import CacheDtype, Dtype, MemoryFraction, SamplingFlags, StrictInt
from kgpt.cli.streams import check_text, read_standard_input
from kgpt.cli.structured_output import StructuredOutputFlags
from kgpt.config import DtypeOption
from kgpt.errors import UsageError
from kgpt.runs import resolve_model
from kgpt.text.terminal_text import for_output

if TYPE_CHECKING:
    from kgpt import GPT
    from kgpt.generation.completion import Completion
    from kgpt.protocol import GenerationChunk

RULE = "-" * 40


def generate(
    *,
    model: str,
    prompt: str | None = None,
    template: str | None = None,
    field: Annotated[list[str] | None, Parameter(negative="")] = None,
    input_file: str | None = None,
    output_file: str | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    num_samples: StrictInt = 1,
    adapter: str | None = None,
    draft_model: str | None = None,
    prompt_lookup: Annotated[bool, Parameter(negative="")] = False,
    max_num_seqs: StrictInt = 16,
    dtype: Dtype = "auto",
    kv_cache_dtype: CacheDtype = "auto",
    memory_fraction: MemoryFraction = None,
    stream: Annotated[bool, Parameter(negative="--no-stream")] = True,
    json_lines: Annotated[bool, Parameter(name="--json", negative="")] = False,
    sampling: SamplingFlags = options.NO_FLAGS,
    structured: StructuredOutputFlags = structured_output.NO_FLAGS,
) -> None:
    """Generate text with a trained model.

    Parameters
    ----------
    model
        A model directory, a run (its best checkpoint), or run@step.
    prompt
        The prompt; - reads it from standard input.
    template
        The name of a prompt template, such as story or code, or its YAML file; see --field.
    field
        A field of the template as name=value; may be given repeatedly.
    input_file
        Prompts, one per line, or JSON lines with a "prompt"; - is standard input.
    output_file
        The completions of --input-file, as JSON lines. Existing ones are kept, so that an
        interrupted job is resumed, with the settings noted in FILE.settings.json.
    overwrite
        Replace the completions in --output-file.
    num_samples
        Number of completions of the prompt, with consecutive seeds.
    adapter
        A LoRA or DoRA adapter of the model: its folder or run. Such a folder as --model is merged
        into its base model, which is faster.
    draft_model
        Speculative decoding with a smaller model of the same tokenizer: same text, faster.
    prompt_lookup
        Speculative decoding with n-grams of the context: same text, faster where it repeats.
    max_num_seqs
        Sequences decoded at once.
    stream
        Print the text as it is generated.
    json_lines
        Print one JSON object per completion, with a receipt for `kgpt replay`; with --input-file,
        add the receipts to --output-file.
    """
    folder, changes = resolve_model(model), options.given_flags(sampling)
    structure = structured_output.given_structured_output(structured)
    _check_prompts(prompt, template, input_file, output_file)
    if num_samples < 1 or max_num_seqs < 1:
        raise UsageError("--num-samples and --max-num-seqs must be at least 1.")
    prompt = _filled(template, field) if template is not None else prompt
    adapters = parse_adapters([adapter] if adapter else [])
    draft_folder = _draft_folder(draft_model, prompt_lookup)
    prompt = check_text(prompt or "", "The prompt")
    prepare_process(memory_fraction)
    silence_native_code()
    prompt = read_standard_input() if prompt == "-" else prompt
    from kgpt.generation.generator import TextGenerator

    chosen = next(iter(adapters), None)
    with TextGenerator(
        folder,
        max_num_seqs=max_num_seqs,
        draft_model=_draft(folder, draft_folder, prompt_lookup, dtype),
        dtype=dtype,
        kv_cache_dtype=kv_cache_dtype,
        adapters=adapters,
    ) as engine:
        params = options.merged(engine.default_sampling, changes)
        if input_file is not None:
            from kgpt.cli.generate_file import complete_file, identify_settings

            about = identify_settings(engine, folder, kv_cache_dtype, adapters, structure)
            files = input_file, str(output_file)
            complete_file(engine, params, *files, about, overwrite, chosen, json_lines)
        elif num_samples == 1 and stream and not json_lines:
            _print_stream(prompt, engine.stream(prompt, params, adapter=chosen, **structure))
        else:
            completions = engine.generate_batch(
                [prompt] * num_samples, params, adapter=chosen, receipt=json_lines, **structure
            )
            _print_completions(prompt, completions, json_lines)


def _filled(template: str, fields: list[str] | None) -> str:
    """The prompt that a template makes of fields, as name=value."""
    from kgpt.text.prompts import fill_template

    return fill_template(template, fields or [])


def _check_prompts(
    prompt: str | None, template: str | None, input_file: str | None, output_file: str | None
) -> None:
    """Raise `UsageError` unless the prompts come from one place."""
    if input_file is not None:
        if prompt is not None or template is not None:
            raise UsageError("--input-file replaces --prompt and --template; leave them out.")
        if output_file is None:
            raise UsageError("--input-file needs --output-file; - writes to standard output.")
    elif (prompt is None) == (template is None):
        raise UsageError("Give --prompt, --template or --input-file.")


def _print_stream(prompt: str, chunks: Iterable[GenerationChunk]) -> None:
    """Print a prompt and its continuation as it is generated."""
    from kgpt.generation.completion import check_chunk

    sys.stdout.write(for_output(prompt))
    for chunk in chunks:
        sys.stdout.write(for_output(chunk.text))
        sys.stdout.flush()
        check_chunk(chunk)
    print()


def _print_completions(prompt: str, completions: Iterable[Completion], as_json: bool) -> None:
    """Print completions of one prompt, or a JSON object for each."""
    if as_json:
        for completion in completions:
            print(json.dumps(completion.as_dict(prompt), ensure_ascii=False), flush=True)
    else:
        shown = (for_output(f"{prompt}{completion.text}") for completion in completions)
        print(f"\n{RULE}\n".join(shown))


def _draft_folder(draft_model: str | None, prompt_lookup: bool) -> Path | None:
    """The folder of the draft model, if there is one."""
    if draft_model and prompt_lookup:
        raise UsageError("Give --draft-model or --prompt-lookup, not both.")
    return resolve_model(draft_model) if draft_model else None


def _draft(
    folder: Path, draft_folder: Path | None, prompt_lookup: bool, dtype: DtypeOption
) -> GPT | Literal["prompt_lookup"] | None:
    """What speculative decoding drafts with; a model must have the tokenizer of `folder`'s."""
    if draft_folder is None:
        return "prompt_lookup" if prompt_lookup else None
    from kgpt.generation.load import check_same_tokenizer
    from kgpt.generation.loading import load_for_inference

    check_same_tokenizer(folder, draft_folder)
    return load_for_inference(draft_folder, dtype)
