"""The ONNX export: its initializers, its tokenizer, and onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kgpt.checkpoints.pretrained import load_config, load_tokenizer
from kgpt.checkpoints.weights import Weights
from kgpt.config import ModelConfig
from kgpt.export.onnx import export_onnx
from kgpt.verification.case import Case
from kgpt.verification.hugging_face import observe_tokenizer
from kgpt.verification.observation import Observation
from kgpt.verification.weights import compare_weights


def observe_onnx(case: Case) -> Observation:
    """Logits, cached greedy decoding, weights and tokenizer of model.onnx."""
    import onnx
    import onnxruntime
    from onnx import numpy_helper

    folder = case.export or case.work / "onnx"
    if case.export is None:
        folder.mkdir()
        export_onnx(case.folder, folder)
    seen = Observation(notes={"versions": f"onnxruntime {onnxruntime.__version__}"})
    config = load_config(case.folder)
    weights = Weights(case.folder, config)
    graph = onnx.load(str(folder / "model.onnx")).graph
    found = {x.name: numpy_helper.to_array(x) for x in graph.initializer}
    compare_weights(seen, ((path, weights.read(path)) for path in weights.shapes), found)
    decoder = OnnxDecoder(folder, config)
    seen.logits = decoder.forward(np.array(case.probe.windows))[0]
    stop_ids = load_tokenizer(folder).stop_ids
    seen.tokens = [
        decoder.greedy(ids, case.probe.num_tokens, stop_ids) for ids in case.probe.prompts
    ]
    observe_tokenizer(seen, case, folder)
    return seen


class OnnxDecoder:
    """model.onnx in onnxruntime on the CPU."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        import onnxruntime

        self.config = config
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
        )
        layers = range(config.num_layers)
        self.names = [f"{layer}.{part}" for layer in layers for part in ("key", "value")]

    def forward(self, ids: np.ndarray, past: list[Any] | None = None) -> tuple[Any, list[Any]]:
        """Logits (B, T, V) of tokens (B, T) after those in `past`, and the longer past."""
        shape = (len(ids), self.config.num_kv_heads, 0, self.config.head_dim)
        past = past or [np.zeros(shape, "float32")] * len(self.names)
        start, length = past[0].shape[2], past[0].shape[2] + ids.shape[1]
        feed = {f"past_key_values.{name}": x for name, x in zip(self.names, past, strict=True)}
        feed |= {
            "input_ids": ids.astype("int64"),
            "attention_mask": np.ones((len(ids), length), "int64"),
            "position_ids": np.tile(np.arange(start, length), (len(ids), 1)),
        }
        logits, *present = self.session.run(
            ["logits", *(f"present.{name}" for name in self.names)], feed
        )
        return logits, present

    def greedy(self, prompt: list[int], num_tokens: int, stop_ids: frozenset[int]) -> list[int]:
        """Greedy tokens after a prompt, up to and with a stop token."""
        logits, past = self.forward(np.array([prompt]))
        tokens: list[int] = []
        while len(tokens) < num_tokens:
            tokens.append(int(logits[0, -1].argmax()))
            if tokens[-1] in stop_ids:
                break
            logits, past = self.forward(np.array([tokens[-1:]]), past)
        return tokens
