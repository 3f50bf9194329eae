"""`kgpt import`: convert a model of other software to a model directory."""

from __future__ import annotations

from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.cli.export import STORAGE_DTYPES, new_target, size_of
from kgpt.errors import UsageError
from kgpt.files import atomic_dir, os_errors_as_kgpt
from kgpt.formatting import size


def import_model(
    source: str, *, out: str, tokenizer: str | None = None, dtype: str | None = None
) -> None:
    """Convert a model of other software to a model directory.

    Parameters
    ----------
    source
        A model directory (GPT-2, Llama, Mistral, Qwen2 or Qwen3), its Hugging Face hub id such as
        HuggingFaceTB/SmolLM2-135M-Instruct, a preset directory of KerasNLP's GPT-2, or a
        nanoGPT checkpoint.
    out
        The output folder, which must be empty or not exist.
    tokenizer
        A folder with a tokenizer that replaces the source's own.
    dtype
        Of the stored weights: float32, bfloat16 or float16; the source's own if not given.
    """
    if dtype is not None and dtype not in STORAGE_DTYPES:
        raise UsageError(f"--dtype must be {', '.join(STORAGE_DTYPES)}, not {dtype!r}.")
    target = new_target(out)
    prepare_process()
    silence_native_code()
    from kgpt.checkpoints.importers import import_from
    from kgpt.checkpoints.pretrained import load_config
    from kgpt.text.tokenizer import Tokenizer

    replacement = Tokenizer.load(tokenizer) if tokenizer is not None else None
    with os_errors_as_kgpt(f"write {target}"), atomic_dir(target) as work:
        import_from(source, work, replacement, dtype)
    parameters = load_config(target).num_parameters()
    print(f"{target}: {parameters / 1e6:,.1f} M parameters, {size(size_of(target))}")
    print(f"Next: kgpt chat --model {target}, or kgpt generate --model {target} --prompt TEXT")
