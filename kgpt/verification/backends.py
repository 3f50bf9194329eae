"""kgpt itself, on this process's backend: each precision, and an adapter that is not merged."""

from __future__ import annotations

from importlib.metadata import version

import keras
import numpy as np

from kgpt import backend
from kgpt.checkpoints.adapters import load_adapter
from kgpt.checkpoints.convert import quantize_model
from kgpt.checkpoints.peft_format import base_folder
from kgpt.checkpoints.pretrained import load_model, load_tokenizer
from kgpt.config import InferenceDtype, SamplingConfig
from kgpt.generation.loading import load_for_inference
from kgpt.generation.scheduler import generate
from kgpt.generation.sequence import Request
from kgpt.model.gpt import GPT
from kgpt.verification.case import Case
from kgpt.verification.layers import different_layer
from kgpt.verification.observation import Observation
from kgpt.verification.reference import Reference


def observe_precision(case: Case, dtype: InferenceDtype = "float32") -> Observation:
    """The model with weights and computation in `dtype`, loaded as for inference."""
    return observe_model(load_for_inference(case.folder, dtype), Reference.load(case.folder), case)


def observe_model(model: GPT, reference: Reference, case: Case) -> Observation:
    """Logits and greedy tokens of a model, and the first layer that differs if they are wrong.

    Args:
        reference: the model in NumPy, with the weights that `model` should have.
    """
    probe, windows = case.probe, np.array(case.probe.windows, "int32")
    logits = backend.to_host(backend.jit(model.__call__, model.variables)(windows))
    stop_ids = load_tokenizer(case.folder).stop_ids
    sampling = SamplingConfig(temperature=0, max_tokens=probe.num_tokens)
    jobs = generate(model, [Request(ids, sampling, stop_ids) for ids in probe.prompts])
    seen = Observation(logits=logits, tokens=[[int(i) for i in job.token_ids] for job in jobs])
    seen.notes = {
        "versions": f"{backend.name} {version(backend.name)}, Keras {keras.__version__}",
        "device": backend.device()[1],
    }
    expected = reference.logits(windows)
    share = np.abs(logits - expected).max() / np.abs(expected).max()
    if not share <= case.bounds.logits and (
        path := different_layer(model, reference, windows, case.bounds.logits)
    ):
        seen.faults.append(f"the layer {path} computes something else than the reference")
    return seen


def observe_reference(case: Case) -> Observation:
    """int4 without a backend: what the precision costs."""
    stored = case.work / "int4"
    if not stored.is_dir():
        stored.mkdir()
        quantize_model(case.folder, stored, 4)
    return Observation(logits=Reference.load(stored).logits(np.array(case.probe.windows)))


def observe_adapter(case: Case) -> Observation:
    """The base model with an adapter beside its weights, not merged into them."""
    model = load_model(base_folder(case.folder))
    load_adapter(model, case.folder)
    return observe_model(model, Reference.load(case.folder), case)
