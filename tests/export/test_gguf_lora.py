"""An adapter as GGUF: with the base model's GGUF file it is the merged model's."""

from functools import partial

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")

from kgpt.errors import CheckpointError, UsageError  # noqa: E402
from kgpt.export.gguf import export_gguf  # noqa: E402
from kgpt.export.gguf_lora import export_gguf_lora  # noqa: E402
from kgpt.text.tokenizer import Tokenizer  # noqa: E402
from tests.generation.adapters import write_adapter  # noqa: E402
from tests.tiny import write_tiny_model  # noqa: E402

FORMS = {
    "gpt2": {"rank": 2, "alpha": 3.0},
    "llama": {"rank": 3, "rslora": True, "target_modules": ["q_proj", "v_proj", "up_proj"]},
    "one-kv-head": {"rank": 1, "target_modules": ["k_proj", "o_proj", "down_proj", "gate_proj"]},
}


def exported(export, folder, out):
    out.mkdir()
    export(folder, out)
    (file,) = out.iterdir()
    reader = gguf.GGUFReader(file)
    return reader, {tensor.name: tensor.data for tensor in reader.tensors}


@pytest.mark.parametrize("architecture", FORMS)
def test_base_and_adapter_are_the_merged_model(architecture, tmp_path):
    tokenizer = Tokenizer.of_bytes()
    base = write_tiny_model(tmp_path / "base", architecture, tokenizer, noise=0.1)
    adapter = write_adapter(tmp_path / "adapter", base, **FORMS[architecture])
    _, weights = exported(export_gguf, base, tmp_path / "1")
    _, merged = exported(export_gguf, adapter, tmp_path / "2")
    reader, lora = exported(export_gguf_lora, adapter, tmp_path / "3")
    half = partial(export_gguf_lora, dtype="float16")
    for name, value in exported(half, adapter, tmp_path / "4")[1].items():
        assert value.dtype == "float16"
        np.testing.assert_allclose(value, lora[name], rtol=1e-3, atol=1e-4)
    fields = {name: reader.get_field(name).contents() for name in (
        "general.type", "adapter.type", "adapter.lora.alpha", "general.architecture",
    )}  # fmt: skip
    alpha = fields.pop("adapter.lora.alpha")
    assert fields == {
        "general.type": "adapter",
        "adapter.type": "lora",
        "general.architecture": "gpt2" if architecture == "gpt2" else "llama",
    }
    changed = set()
    for name, weight in weights.items():
        if f"{name}.lora_a" in lora:
            a, b = lora.pop(f"{name}.lora_a"), lora.pop(f"{name}.lora_b")
            weight = weight + alpha / len(a) * b @ a
            changed.add(name)
        np.testing.assert_allclose(weight, merged[name], rtol=1e-4, atol=1e-5)
    assert not lora and len(changed) >= 6
    assert all(np.abs(weights[name] - merged[name]).max() > 0.01 for name in changed)


def test_what_llama_cpp_cannot_apply_is_refused(tmp_path):
    base = write_tiny_model(tmp_path / "base", "llama", noise=0.1)
    dora = write_adapter(tmp_path / "dora", base, rank=1, dora=True)
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="DoRA adapter, which llama.cpp cannot apply"):
        export_gguf_lora(dora, tmp_path / "out")
    with pytest.raises(UsageError, match="for a model the format is gguf"):
        export_gguf_lora(base, tmp_path / "out")
    mixed = write_tiny_model(tmp_path / "mixed", "sinusoidal")
    adapter = write_adapter(tmp_path / "adapter", mixed, rank=1)
    with pytest.raises(CheckpointError, match="base model of .* cannot be written as GGUF"):
        export_gguf_lora(adapter, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
