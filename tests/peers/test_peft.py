"""Adapters of `peft` in kgpt, and kgpt's in `peft`: the same logits and gradients."""

import json

import keras
import numpy as np
import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

import torch  # noqa: E402

import kgpt  # noqa: E402
from kgpt import backend  # noqa: E402
from kgpt.checkpoints.adapters import adapter_variables  # noqa: E402
from kgpt.checkpoints.pretrained import load_model, path_below  # noqa: E402
from tests.model.test_gradients import gradients_by_training  # noqa: E402
from tests.peers.test_transformers import IDS, theirs  # noqa: E402

pytestmark = pytest.mark.backend

QWEN = ["q_proj", "v_proj", "gate_proj"]
FORMS = {
    "gpt2": ("gpt2", {"r": 4, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "gpt2-dora": (
        "gpt2",
        {"r": 2, "use_dora": True, "target_modules": "all-linear", "fan_in_fan_out": True},
    ),
    "llama": ("llama", {"r": 4, "lora_alpha": 3, "target_modules": "all-linear"}),
    "llama-dora-rslora": (
        "llama",
        {"r": 3, "use_dora": True, "use_rslora": True, "target_modules": ["k_proj", "down_proj"]},
    ),
    "qwen2-patterns": (
        "qwen2",
        {
            "r": 4, "target_modules": QWEN, "rank_pattern": {"v_proj": 2},
            "alpha_pattern": {"layers.0.self_attn.q_proj": 5}, "layers_to_transform": [0],
        },
    ),
}  # fmt: skip


def peft_model(form, tmp_path, dropout=0.1):
    """A base model in a folder, and a random adapter of `peft` on it."""
    name, options = FORMS[form]
    theirs(name).save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config = peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=dropout, **options)
    model = peft.get_peft_model(base, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def logits_of_theirs(model):
    with torch.no_grad():
        return backend.to_host(model(torch.tensor(IDS)).logits)


def logits(model):
    return keras.ops.convert_to_numpy(model(IDS.astype("int32")))


@pytest.mark.parametrize("form", FORMS)
def test_an_adapter_of_peft_computes_the_same_here_and_back(form, tmp_path):
    model = peft_model(form, tmp_path)
    model.save_pretrained(tmp_path / "adapter")
    expected = logits_of_theirs(model)
    np.testing.assert_allclose(logits(load_model(tmp_path / "adapter")), expected, atol=1e-4)
    ours = kgpt.GPT.from_pretrained(tmp_path / "base")
    kgpt.load_adapter(ours, tmp_path / "adapter")
    np.testing.assert_allclose(logits(ours), expected, atol=1e-4)
    kgpt.save_adapter(ours, tmp_path / "back")
    again = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    np.testing.assert_allclose(logits_of_theirs(again), expected, atol=1e-5)
    mine, original = (peft.get_peft_model_state_dict(each) for each in (again, model))
    assert set(mine) == set(original)
    assert all(torch.equal(mine[name], original[name]) for name in original)


@pytest.mark.parametrize("form", ["gpt2-dora", "llama"])
def test_gradients_are_those_of_peft(form, tmp_path):
    model = peft_model(form, tmp_path, dropout=0.0)
    model.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor(IDS[:, :12])
    model(ids, labels=ids).loss.backward()  # each position predicts the one after
    config = tmp_path / "base" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"resid_pdrop": 0.0}))
    ours = kgpt.GPT.from_pretrained(tmp_path / "base")
    kgpt.load_adapter(ours, tmp_path / "adapter")
    inputs, targets = IDS[:, :11].astype("int32"), IDS[:, 1:12].astype("int32")
    found, _ = gradients_by_training(ours, inputs, targets)
    assert set(found) == set(adapter_variables(ours))
    parts = {
        "a": "lora_A.default.weight",
        "b": "lora_B.default.weight",
        "magnitude": "lora_magnitude_vector.default.weight",
    }
    theirs_by_name = dict(model.named_parameters())
    for linear in ours.linears:
        for adapter in linear.adapter.adapters:
            for variable in adapter.variables:
                name = parts[variable.name.rpartition("_")[2]]
                parameter = theirs_by_name[f"base_model.model.{adapter.spec.module}.{name}"]
                expected = backend.to_host(parameter.grad).T
                np.testing.assert_allclose(found[path_below(variable)], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_prefix_of_peft_computes_the_same_here_and_back(name, tmp_path):
    theirs(name).save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = peft.get_peft_model(base, config).eval()
    model.save_pretrained(tmp_path / "adapter")
    ids = IDS[:, :20]
    with torch.no_grad():
        expected = backend.to_host(model(torch.tensor(ids)).logits)
    ours = kgpt.GPT.from_pretrained(tmp_path / "adapter")
    found = keras.ops.convert_to_numpy(ours(ids.astype("int32")))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    kgpt.save_adapter(ours, tmp_path / "back")
    again = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    with torch.no_grad():
        np.testing.assert_array_equal(backend.to_host(again(torch.tensor(ids)).logits), expected)
