"""The SavedModel export, run by TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kgpt.checkpoints.pretrained import load_config
from kgpt.checkpoints.weights import Weights
from kgpt.config import SamplingConfig
from kgpt.verification.case import Case
from kgpt.verification.observation import Observation
from kgpt.verification.weights import compare_weights


def observe_saved_model(case: Case) -> Observation:
    """Logits, greedy tokens, weights, and the tokenizer in the graph if it has one."""
    import tensorflow as tf

    from kgpt.export.savedmodel.controls import default_controls

    loaded = tf.saved_model.load(str(_exported(case)))
    call, seen = loaded.signatures, Observation()
    seen.notes = {"versions": f"tensorflow {tf.__version__}"}
    _compare_variables(seen, case, loaded)
    seen.logits = call["logits"](ids=tf.constant(case.probe.windows, tf.int32))["logits"].numpy()
    controls = default_controls(SamplingConfig(temperature=0, max_tokens=case.probe.num_tokens))
    controls.pop("stop")
    width = max(map(len, case.probe.prompts))
    padded = [ids + [-1] * (width - len(ids)) for ids in case.probe.prompts]
    outputs = call["generate_ids"](ids=tf.constant(padded, tf.int32), **controls)
    seen.tokens = _ragged(outputs["ids"], outputs["num_tokens"])
    if "tokenize" in call:
        outputs = call["tokenize"](texts=tf.constant([s.encode() for s in case.probe.strings]))
        seen.string_ids = _ragged(outputs["ids"], outputs["num_tokens"])
    return seen


def _exported(case: Case) -> Path:
    if case.export is not None:
        return case.export
    from kgpt.export.savedmodel.export import write_saved_model

    target = case.work / "savedmodel"
    write_saved_model(case.folder, target)
    return target


def _ragged(ids: Any, lengths: Any) -> list[list[int]]:
    rows = zip(ids.numpy(), lengths.numpy(), strict=True)
    return [row[:length].tolist() for row, length in rows]


def _compare_variables(seen: Observation, case: Case, loaded: Any) -> None:
    config = load_config(case.folder)
    weights = Weights(case.folder, config)
    found = {v.name.partition("/")[2].partition(":")[0]: np.array(v) for v in loaded.weights}
    compare_weights(seen, ((path, weights.read(path)) for path in weights.shapes), found)
