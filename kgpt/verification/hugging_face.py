"""A Hugging Face directory: its files, and transformers if it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.checkpoints.convert import export_hugging_face
from kgpt.checkpoints.hf_config import model_type_of
from kgpt.checkpoints.peft_format import is_adapter
from kgpt.checkpoints.pretrained import load_config, load_tokenizer
from kgpt.checkpoints.quantized import quantization_of
from kgpt.checkpoints.weight_map import tensor_mappings
from kgpt.checkpoints.weights import Weights
from kgpt.verification.case import Case
from kgpt.verification.observation import Observation
from kgpt.verification.reference import Reference
from kgpt.verification.tokenizer import tokenizer_faults
from kgpt.verification.weights import compare_weights


def observe_files(case: Case) -> Observation:
    """The export: configuration, weights, tokenizer and stop tokens, as files."""
    folder, seen = _exported(case), Observation()
    config, theirs = load_config(case.folder), load_config(folder)
    for name, value in config.model_dump().items():
        if (found := getattr(theirs, name)) != getattr(config, name) and name != "dropout":
            seen.faults.append(f"config.json has the {name} {found}, not {value}")
    if seen.faults:
        return seen
    weights = Weights(folder, config)
    names = [name for name, _ in _tensors(case.folder)]
    compare_weights(seen, _tensors(case.folder), {name: weights.tensor(name) for name in names})
    observe_tokenizer(seen, case, folder)
    return seen


def observe_tokenizer(seen: Observation, case: Case, folder: Path) -> None:
    """Add what the tokenizer in the folder of an export gives."""
    tokenizer = load_tokenizer(folder)
    seen.string_ids = tokenizer.encode_batch(case.probe.strings)
    seen.stop_ids = sorted(tokenizer.stop_ids)
    seen.faults += tokenizer_faults(load_tokenizer(case.folder), tokenizer)


def _exported(case: Case) -> Path:
    if case.export is not None:
        return case.export
    target = case.work / "hugging-face"
    if not target.is_dir():
        target.mkdir()
        export_hugging_face(case.folder, target)
    return target


def _tensors(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of a model by their names in the file."""
    config = load_config(folder)
    weights = Weights(folder, config)
    for mapping in tensor_mappings(config, model_type_of(config)):
        for name, _, _ in mapping.tensors():
            yield name, weights.tensor(name)


def observe_transformers(case: Case) -> Observation:
    """transformers on the model directory itself, or on an export of what only kgpt reads."""
    import torch

    transformers: Any = import_module("transformers")
    plain = not is_adapter(case.folder) and quantization_of(case.folder) is None
    folder = case.folder if plain and case.export is None else _exported(case)
    transformers.utils.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    windows = torch.tensor(case.probe.windows)
    with torch.no_grad():
        outputs = model(windows, output_hidden_states=True)
    seen = Observation(logits=outputs.logits.numpy())
    seen.notes = {"versions": f"transformers {transformers.__version__}, torch {torch.__version__}"}
    stop_ids = model.generation_config.eos_token_id
    seen.stop_ids = sorted(stop_ids if isinstance(stop_ids, list) else [stop_ids or 0])
    seen.tokens = [_greedy(model, ids, case.probe.num_tokens) for ids in case.probe.prompts]
    _observe_peer_tokenizer(seen, case, transformers.AutoTokenizer.from_pretrained(folder))
    states = [state.numpy() for state in outputs.hidden_states]
    if fault := _different_state(states, case):
        seen.faults.append(fault)
    return seen


def _greedy(model: Any, prompt: list[int], num_tokens: int) -> list[int]:
    import torch

    ids = torch.tensor([prompt])
    generated = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=False,
        repetition_penalty=1.0, pad_token_id=0,
    )  # fmt: skip
    tokens: list[int] = generated[0, len(prompt) :].tolist()
    return tokens


def _observe_peer_tokenizer(seen: Observation, case: Case, tokenizer: Any) -> None:
    encoded = tokenizer(case.probe.strings, add_special_tokens=False, split_special_tokens=True)
    seen.string_ids = encoded["input_ids"]
    if tokenizer.chat_template is not None:
        seen.chat_ids = [
            tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
            for chat in case.probe.chats
        ]


def _different_state(states: list[np.ndarray], case: Case) -> str | None:
    """A sentence on the first hidden state that differs, the embeddings being the first."""
    expected: list[np.ndarray] = []

    def record(path: str, x: np.ndarray, y: np.ndarray) -> None:
        if path.endswith("attention_norm") or path == "head":
            expected.append(x)

    Reference.load(case.folder).logits(np.array(case.probe.windows), record)
    for index, (ours, theirs) in enumerate(zip(states, expected, strict=True)):
        if not np.abs(ours - theirs).max() <= case.bounds.logits * np.abs(theirs).max():
            where = "the embeddings" if index == 0 else f"the hidden states after block_{index - 1}"
            return f"{where} are the first that differ from the reference"
    return None
