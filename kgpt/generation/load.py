"""`kgpt.load`: a text generator by the name of a run, a directory or a model on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from kgpt import backend
from kgpt.checkpoints.pretrained import load_tokenizer, resolve_source
from kgpt.config import DtypeOption, KVCacheDtype
from kgpt.errors import UsageError
from kgpt.generation.adapters import NO_ADAPTERS
from kgpt.generation.generator import TextGenerator
from kgpt.generation.loading import load_for_inference
from kgpt.generation.speculative import DraftSource

Device = Literal["cpu", "gpu"]


def load(
    model: str | Path,
    *,
    device: Device | None = None,
    dtype: DtypeOption = "auto",
    kv_cache_dtype: KVCacheDtype = "auto",
    max_num_seqs: int = 8,
    max_context: int | None = None,
    draft_model: str | Path | None = None,
    adapters: Mapping[str, str | Path] = NO_ADAPTERS,
    max_adapters: int | None = None,
    max_lora_rank: int | None = None,
) -> TextGenerator:
    """A `TextGenerator` for a model.

    Args:
        model: a run (its best checkpoint), `run@step`, a model directory, or a model's name on the
            Hugging Face hub, such as "openai-community/gpt2", which is downloaded to the cache.
        device: "cpu" or "gpu" to insist on it; the backend's choice when not given.
        dtype: of weights and computation: "float32", "tensorfloat32", "bfloat16", "float16",
            "int8" or "int4"; "auto" is the format of a model that `kgpt quantize` stored, else
            float32.
        kv_cache_dtype: of the KV caches: "float32", "bfloat16" or "int8"; "auto" is the dtype of
            the computation.
        max_num_seqs: sequences decoded at once.
        max_context: tokens kept of each sequence; the model's `max_length` when not given.
        draft_model: for speculative decoding: a smaller model with the same tokenizer, named as
            `model` is, or "prompt_lookup".
        adapters: LoRA and DoRA adapters of the model by name, each a folder of PEFT, a run or a
            name on the hub: `generator.generate(prompt, adapter=name)`, in one batch with others.
        max_adapters, max_lora_rank: room for adapters that `generator.load_adapter` loads later:
            how many there are at once, and their largest rank, 16 when not given.

    Raises:
        UsageError: there is no such model or device. CheckpointError: it cannot be read.

    Example::

        generator = kgpt.load("demo")
        print(generator.generate("ROMEO:", max_tokens=80, temperature=0.8, seed=7).text)
    """
    check_device(device)
    folder = resolve_source(model)
    draft: DraftSource | None = None
    if draft_model == "prompt_lookup":
        draft = "prompt_lookup"
    elif draft_model is not None:
        draft_folder = resolve_source(draft_model)
        check_same_tokenizer(folder, draft_folder)
        draft = load_for_inference(draft_folder, dtype)
    return TextGenerator(
        folder,
        max_num_seqs=max_num_seqs,
        max_context=max_context,
        draft_model=draft,
        dtype=dtype,
        kv_cache_dtype=kv_cache_dtype,
        adapters={name: resolve_source(source) for name, source in adapters.items()},
        max_adapters=max_adapters,
        max_lora_rank=max_lora_rank,
    )


def check_same_tokenizer(folder: Path, draft_folder: Path) -> None:
    """Raise `UsageError` unless both model directories have one vocabulary."""
    ours, drafts = (load_tokenizer(path).backend_tokenizer for path in (folder, draft_folder))
    if ours.get_vocab() != drafts.get_vocab():
        raise UsageError(
            "The draft model has another tokenizer than the model; train both on one data set."
        )


def check_device(device: Device | None) -> None:
    """Raise `UsageError` unless the backend runs on `device`."""
    platform = backend.device()[0]
    if device is None or device == platform:
        return
    if device not in ("cpu", "gpu"):
        raise UsageError(f"device must be 'cpu' or 'gpu', not {device!r}.")
    advice = (
        "set CUDA_VISIBLE_DEVICES= (empty) before Python starts"
        if device == "cpu"
        else "install the backend with support for it, or leave device out"
    )
    raise UsageError(f"{backend.name} runs on {platform} here, not on {device}; {advice}.")
