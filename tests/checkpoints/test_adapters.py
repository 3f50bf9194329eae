"""Adapters in PEFT's format: written, read, found with their base model, refused, merged."""

import json
import shutil

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import kgpt
from kgpt.checkpoints.convert import copy_model, quantize_model
from kgpt.checkpoints.peft_format import ADAPTER_CONFIG, ADAPTER_WEIGHTS, base_folder
from kgpt.checkpoints.pretrained import load_model, load_tokenizer
from kgpt.cli import main
from kgpt.errors import CheckpointError, UsageError
from tests.checkpoints.resumed import losses_resumed
from tests.tiny import write_tiny_model

IDS = np.random.default_rng(0).integers(0, 259, (2, 12)).astype("int32")


def logits(model):
    return keras.ops.convert_to_numpy(model(IDS))


def adapted(folder, **options):
    """A model with random adapters on the base model in `folder`."""
    model = kgpt.GPT.from_pretrained(folder)
    kgpt.add_lora(model, **options)
    rng = np.random.default_rng(5)
    for variable in model.trainable_variables:
        variable.assign(variable.numpy() + rng.normal(0, 0.1, variable.shape).astype("float32"))
    return model


@pytest.fixture
def base(tmp_path):
    return write_tiny_model(tmp_path / "base", "llama", noise=0.1)


@pytest.fixture
def adapter(base, tmp_path):
    kgpt.save_adapter(adapted(base, rank=3, target_modules=["q_proj", "up_proj"]), tmp_path / "a")
    return tmp_path / "a"


def edited(adapter, **changes):
    file = adapter / ADAPTER_CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return adapter


@pytest.mark.parametrize(
    ("architecture", "options", "targets"),
    [
        ("gpt2", {"rank": 2, "alpha": 3.5}, ["c_attn", "c_fc", "c_proj"]),
        ("gpt2", {"target_modules": "attn.c_proj", "dora": True}, ["attn.c_proj"]),
        ("llama", {"target_modules": ["*.0.*.[kv]_proj"], "rslora": True}, None),
        ("qk-norm", {"dora": True, "rslora": True}, None),
        ("sinusoidal", {"target_modules": ["qkv", "down"]}, ["down", "qkv"]),
    ],
)
def test_an_adapter_is_read_as_it_was_written(architecture, options, targets, tmp_path):
    base = write_tiny_model(tmp_path / "base", architecture, noise=0.1)
    model = adapted(base, **options)
    kgpt.save_adapter(model, tmp_path / "adapter")
    again = kgpt.GPT.from_pretrained(base)
    kgpt.load_adapter(again, tmp_path / "adapter")
    for mine, theirs in zip(again.trainable_variables, model.trainable_variables, strict=True):
        assert mine.path == theirs.path
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    merged = load_model(tmp_path / "adapter")
    for each in (again, merged):
        np.testing.assert_allclose(logits(each), logits(model), rtol=1e-5, atol=1e-5)
    config = json.loads((tmp_path / "adapter" / ADAPTER_CONFIG).read_text())
    assert config["fan_in_fan_out"] == (architecture != "llama")
    assert targets is None or config["target_modules"] == targets
    kgpt.save_adapter(again, tmp_path / "again")
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        first, second = ((tmp_path / folder / name).read_bytes() for folder in ("adapter", "again"))
        assert first == second


def test_each_module_keeps_its_rank_and_alpha(base, tmp_path):
    options = kgpt.LoraConfig(
        rank=2, target_modules=["q_proj", "v_proj"], rank_pattern={"*.0.*v_proj": 5},
        alpha_pattern={"v_proj": 3.0},
    )  # fmt: skip
    model = kgpt.GPT.from_pretrained(base)
    model.add_adapter(options)
    for variable in model.trainable_variables:
        variable.assign(keras.ops.ones_like(variable.value) / 10)
    kgpt.save_adapter(model, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / ADAPTER_CONFIG).read_text())
    assert config["rank_pattern"] == {"model.layers.0.self_attn.v_proj": 5}
    np.testing.assert_allclose(
        logits(load_model(tmp_path / "adapter")), logits(model), rtol=1e-5, atol=1e-5
    )


def test_the_folder_of_an_adapter_is_a_model(adapter, base, tmp_path, capsys):
    with kgpt.load(adapter) as generator:
        text = generator.generate("ab", max_tokens=5, temperature=0).text
    with pytest.raises(SystemExit, match="0"):
        main(["merge", str(adapter), str(tmp_path / "merged"), "--dtype", "float32"])
    with kgpt.load(tmp_path / "merged") as generator:
        assert generator.generate("ab", max_tokens=5, temperature=0).text == text
    np.testing.assert_array_equal(
        logits(load_model(tmp_path / "merged")), logits(load_model(adapter))
    )
    with pytest.raises(SystemExit, match="0"):
        main(["info", "--model", str(adapter), "--json"])
    shown = json.loads(capsys.readouterr().out.partition("merged, ")[2].partition("\n")[2])
    assert (shown["adapter"]["kind"], shown["adapter"]["rank"]) == ("LoRA", 3)
    quantize_model(adapter, made(tmp_path / "int8"), 8)
    np.testing.assert_allclose(
        logits(load_model(tmp_path / "int8")), logits(load_model(adapter)), atol=0.05
    )
    assert not (tmp_path / "int8" / ADAPTER_CONFIG).exists()


def made(folder):
    folder.mkdir()
    return folder


def test_the_base_is_found_beside_the_adapter_and_among_the_runs(adapter, base, monkeypatch):
    for name in ("base", "../base", str(base)):
        assert base_folder(edited(adapter, base_model_name_or_path=name)).samefile(base)
    with pytest.raises(CheckpointError, match="adapter of the model 'demo', which is not found"):
        base_folder(edited(adapter, base_model_name_or_path="demo"))
    with pytest.raises(CheckpointError, match="does not say which model"):
        base_folder(edited(adapter, base_model_name_or_path=None))


def test_an_adapters_own_tokenizer_comes_first(adapter, base):
    fingerprint = load_tokenizer(base).fingerprint
    assert load_tokenizer(adapter).fingerprint == fingerprint
    kgpt.Tokenizer.of_characters(["abc"]).save(adapter)
    assert load_tokenizer(adapter).fingerprint != fingerprint


def test_adapters_may_stay_apart_from_an_int8_base(adapter, base, tmp_path):
    """A directory of int8 weights too."""
    copy = tmp_path / "int8"
    quantize_model(base, made(copy), 8)
    shutil.rmtree(base)
    copy.rename(base)
    model = kgpt.GPT.from_pretrained(base, weight_format="int8")
    kgpt.load_adapter(model, adapter)
    np.testing.assert_allclose(logits(model), logits(load_model(adapter)), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "of the kind 'IA3'"),
        ({"bias": "all"}, "bias 'all', which kgpt cannot do"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"use_dora": True}, "requires lora_A, lora_B, lora_magnitude_vector"),
        ({"lora_alpha": None}, "lacks the key 'lora_alpha'"),
    ],
)
def test_another_kind_of_adapter_is_refused(changes, message, adapter):
    with pytest.raises(CheckpointError, match=message):
        load_model(edited(adapter, **changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, x: (name.replace("q_proj", "gate"), x), "no place for"),
        (lambda name, x: (name, x[:, :-1] if "lora_A" in name else x), "the base model requires"),
        (lambda name, x: (name.replace("lora_B", "lora_C"), x), "no place for"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, message, adapter):
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    changed = dict(change(name, x) for name, x in tensors.items())
    save_file({name: np.ascontiguousarray(x) for name, x in changed.items()},
              adapter / ADAPTER_WEIGHTS)  # fmt: skip
    with pytest.raises(CheckpointError, match=message):
        load_model(adapter)
    (adapter / ADAPTER_WEIGHTS).write_bytes(b"{}")
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(adapter)


def test_folders_and_models_without_adapters(base, adapter, tmp_path, capsys):
    model = kgpt.GPT.from_pretrained(base)
    with pytest.raises(UsageError, match="no adapters; kgpt.add_lora"):
        kgpt.save_adapter(model, tmp_path / "out")
    with pytest.raises(UsageError, match="so it is not an adapter"):
        kgpt.load_adapter(model, base)
    kgpt.load_adapter(model, adapter)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.py").touch()
    with pytest.raises(UsageError, match="not empty"):
        kgpt.save_adapter(model, tmp_path / "full")
    model.name_or_path = None
    with pytest.raises(UsageError, match="Say where the base model is"):
        kgpt.save_adapter(model, tmp_path / "out")
    with pytest.raises(SystemExit, match="2"):
        main(["merge", str(base), str(tmp_path / "merged")])
    assert "nothing to merge" in capsys.readouterr().err


@pytest.mark.backend
@pytest.mark.portable
def test_a_resumed_adapter_repeats_the_losses_of_one_that_went_on(base, tmp_path):
    """A checkpoint has the adapter, not the base model, and is a model argument itself."""
    losses, resumed, before = losses_resumed(
        base, lambda model: kgpt.add_lora(model, rank=2, dropout=0.2, dora=True), IDS,
        tmp_path / "step",
    )  # fmt: skip
    assert resumed == losses[2:]
    assert not list((tmp_path / "step").glob("model*"))
    copy_model(tmp_path / "step", made(tmp_path / "whole"))
    np.testing.assert_allclose(logits(load_model(tmp_path / "whole")), before, rtol=1e-5, atol=1e-5)
