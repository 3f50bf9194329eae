"""The GGUF export: its tensors and metadata, and llama.cpp if its binding is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kgpt.checkpoints.hf_config import model_type_of
from kgpt.checkpoints.pretrained import load_config, load_tokenizer
from kgpt.checkpoints.weights import Weights
from kgpt.export.gguf import export_gguf, gguf_tensors
from kgpt.verification.case import Case
from kgpt.verification.observation import Observation
from kgpt.verification.tokenizer import merge_fault
from kgpt.verification.weights import compare_weights


def observe_gguf(case: Case) -> Observation:
    """The file: tensors, epsilon, rotary base, merges and stop token."""
    from gguf import GGUFReader

    reader = GGUFReader(str(gguf_file(case)))
    seen, config = Observation(), load_config(case.folder)
    weights, kind = Weights(case.folder, config), model_type_of(config)
    expected = (
        tensor
        for path in weights.shapes
        for tensor in gguf_tensors(path, weights.read(path), config, kind)
    )
    # The tensors are as they are stored: numpy's shape is the reverse of GGUF's.
    compare_weights(seen, expected, {tensor.name: tensor.data for tensor in reader.tensors})
    values = {name: field.contents() for name, field in reader.fields.items()}
    _compare_metadata(seen, values, case)
    return seen


def gguf_file(case: Case) -> Path:
    """The file to observe, exported if none is given."""
    if case.export is not None:
        return case.export if case.export.is_file() else case.export / "model.gguf"
    folder = case.work / "gguf"
    if not folder.is_dir():
        folder.mkdir()
        export_gguf(case.folder, folder)
    return folder / "model.gguf"


def _compare_metadata(seen: Observation, values: dict[str, Any], case: Case) -> None:
    config, tokenizer = load_config(case.folder), load_tokenizer(case.folder)
    kind = model_type_of(config)
    epsilon = "layer_norm_epsilon" if kind == "gpt2" else "layer_norm_rms_epsilon"
    numbers = {f"{kind}.attention.{epsilon}": config.norm_epsilon}
    if config.position == "rotary":
        numbers[f"{kind}.rope.freq_base"] = config.rope_theta
    for name, value in numbers.items():
        if name not in values or np.float32(values[name]) != np.float32(value):
            seen.faults.append(f"the metadata {name} is {values.get(name)}, not {value}")
    merges = tokenizer_merges(tokenizer.to_json())
    if merges and (fault := merge_fault(values["tokenizer.ggml.merges"], merges)):
        seen.faults.append(fault)
    name = "tokenizer.ggml.eos_token_id"
    eos_id = tokenizer.token_to_id(tokenizer.special_tokens.tokens.get("eos_token", ""))
    if values.get(name) != eos_id:
        seen.faults.append(f"the stop token {name} is {values.get(name)}, not {eos_id}")


def tokenizer_merges(text: str) -> list[Any]:
    """The merges of a tokenizer.json."""
    import json

    merges: list[Any] = json.loads(text)["model"].get("merges") or []
    return merges


def observe_llama_cpp(case: Case) -> Observation:
    """Greedy texts of llama.cpp, through its binding xllamacpp."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(gguf_file(case))
    settings.n_ctx = load_config(case.folder).max_length
    settings.n_parallel, settings.warmup = 1, False
    server, texts = xllamacpp.Server(settings), []
    for ids in case.probe.prompts:
        answer = server.handle_completions(
            {"prompt": ids, "max_tokens": case.probe.num_tokens, "temperature": 0, "top_k": 1}
        )
        texts.append(answer["choices"][0]["text"])
    return Observation(texts=texts)
