"""`kgpt merge`: write an adapter and its base model as one model directory."""

from __future__ import annotations

from kgpt.cli.export import STORAGE_DTYPES, new_target, size_of
from kgpt.errors import UsageError
from kgpt.files import atomic_dir, os_errors_as_kgpt
from kgpt.formatting import size
from kgpt.runs import resolve_model


def merge(adapter: str, out: str, /, *, dtype: str | None = None) -> None:
    """Write a LoRA or DoRA adapter and its base model as one model directory.

    Parameters
    ----------
    adapter
        A folder in PEFT's format, or a run that trains an adapter (its best checkpoint). Its
        adapter_config.json says where the base model is.
    out
        The folder to write, which must be empty or not exist.
    dtype
        Of the stored weights: float32, bfloat16 or float16; the base model's if not given.
    """
    from kgpt.checkpoints.convert import copy_model
    from kgpt.checkpoints.peft_format import ADAPTER_CONFIG, base_folder, is_adapter

    if dtype is not None and dtype not in STORAGE_DTYPES:
        raise UsageError(f"--dtype must be {', '.join(STORAGE_DTYPES)}, not {dtype!r}.")
    folder, target = resolve_model(adapter), new_target(out)
    if not is_adapter(folder):
        raise UsageError(f"{folder} has no {ADAPTER_CONFIG}, so there is nothing to merge.")
    with os_errors_as_kgpt(f"write {target}"), atomic_dir(target) as work:
        copy_model(folder, work, dtype)
    print(f"{target}: {base_folder(folder)} with {folder} merged, {size(size_of(target))}")
