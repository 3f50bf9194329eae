"""Folders of bottleneck adapters and prefixes: written, read, run as models, not merged."""

import json

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import kgpt
from kgpt.checkpoints.adapter_layout import adapter_variables
from kgpt.checkpoints.convert import copy_model, quantize_model
from kgpt.checkpoints.peft_format import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from kgpt.checkpoints.pretrained import load_model, path_below
from kgpt.checkpoints.stored_adapter import read_adapter
from kgpt.cli import main
from kgpt.config import Config
from kgpt.errors import CheckpointError
from kgpt.lab.trainable import trainable_shapes
from kgpt.training.base_model import adapter_config
from tests.checkpoints.resumed import losses_resumed
from tests.tiny import write_tiny_model

IDS = np.random.default_rng(0).integers(0, 259, (2, 12)).astype("int32")
ADD = {
    "bottleneck": lambda model: kgpt.add_bottleneck(model, 3, "pfeiffer", "silu", 0.5, 0.2),
    "prefix": lambda model: kgpt.add_prefix(model, 4),
}


def logits(model):
    return keras.ops.convert_to_numpy(model(IDS))


@pytest.fixture
def base(tmp_path):
    return write_tiny_model(tmp_path / "base", "llama", noise=0.1)


@pytest.fixture(params=list(ADD))
def adapter(request, base, tmp_path):
    """The folder of a random adapter, and the logits with it."""
    model = kgpt.GPT.from_pretrained(base)
    ADD[request.param](model)
    rng = np.random.default_rng(5)
    for variable in adapter_variables(model).values():
        variable.assign(rng.normal(0, 0.5, variable.shape).astype("float32"))
    kgpt.save_adapter(model, tmp_path / "adapter")
    return tmp_path / "adapter", logits(model)


def test_an_adapter_is_read_as_it_was_written(adapter, base, tmp_path):
    folder, expected = adapter
    again = kgpt.GPT.from_pretrained(base)
    kgpt.load_adapter(again, folder)
    for model in (again, load_model(folder)):
        np.testing.assert_array_equal(logits(model), expected)
    kgpt.save_adapter(kgpt.GPT.from_pretrained(folder), tmp_path / "again")
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_its_folder_is_a_model_that_is_not_merged(adapter, base, tmp_path, capsys):
    folder, _ = adapter
    model = kgpt.GPT.from_pretrained(folder)
    expected = model.generate([5, 6], max_tokens=5, temperature=0)[2:]
    for dtype in ("float32", "int8"):  # int8 rounds: it runs, beside weights in that format
        with kgpt.load(folder, dtype=dtype) as generator:
            ids = generator.generate([5, 6], max_tokens=5, temperature=0).token_ids
            assert dtype == "int8" or ids == expected
    with pytest.raises(SystemExit, match="0"):
        main(["info", "--model", str(folder), "--json"])
    shown = json.loads(capsys.readouterr().out)["adapter"]
    count = sum(int(np.prod(v.shape)) for v in adapter_variables(model).values())
    assert (shown["parameters"], shown["base"]) == (count, str(base))
    (tmp_path / "out").mkdir()
    for refused in (
        lambda: copy_model(folder, tmp_path / "out"),
        lambda: quantize_model(folder, tmp_path / "out", 8),
        lambda: kgpt.load(base, adapters={"mine": folder}),
    ):
        with pytest.raises(CheckpointError, match="cannot be merged into the weights"):
            refused()


@pytest.mark.parametrize("method", ["adapter", "prefix"])
def test_a_plan_counts_the_variables_that_are_trained(method, base):
    model = kgpt.GPT.from_pretrained(base)
    values = {"finetune": {"objective": "sft", "method": method}, "bottleneck": {"size": 3}}
    config = Config.parse(values | {"model": model.config.model_dump()})
    model.add_adapter(adapter_config(config))
    trained = {path_below(v): tuple(v.shape) for v in model.trainable_variables}
    assert dict(trainable_shapes(config)) == trained
    assert config.max_text_length == model.max_length


DAMAGE = [
    (lambda name, x: (name, x[..., :-2]), {}, "has shape"),
    (lambda name, x: (f"{name}.other", x), {}, "tensor"),
    (lambda name, x: (name, x), {"modules_to_save": ["lm_head"]}, "modules_to_save"),
]


@pytest.mark.parametrize(("change", "keys", "message"), DAMAGE)
def test_what_does_not_fit_is_refused(adapter, change, keys, message):
    folder, _ = adapter
    tensors = dict(change(name, x) for name, x in load_file(folder / ADAPTER_WEIGHTS).items())
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()},
              folder / ADAPTER_WEIGHTS)  # fmt: skip
    file = folder / ADAPTER_CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


def test_adapters_as_llm_adapters_names_them(adapter, base):
    folder, _ = adapter
    values = json.loads((folder / ADAPTER_CONFIG).read_text())
    if values["peft_type"] == "PREFIX_TUNING":
        assert list(load_file(folder / ADAPTER_WEIGHTS)) == ["prompt_embeddings"]
        return
    assert values["target_modules"] == ["down_proj"] and values["bottleneck_size"] == 3
    name = "base_model.model.model.layers.1.mlp.down_proj.adapter_up.weight"
    assert load_file(folder / ADAPTER_WEIGHTS)[name].shape == (32, 3)
    stored = read_adapter(folder, kgpt.GPT.from_pretrained(base).config)
    assert stored.config() == kgpt.BottleneckConfig(
        size=3, placement="pfeiffer", activation="silu", scaling=0.5, dropout=0.2
    )


@pytest.mark.backend
@pytest.mark.portable
@pytest.mark.parametrize("kind", ADD)
def test_a_resumed_adapter_repeats_the_losses_of_one_that_went_on(kind, base, tmp_path):
    """A checkpoint has the adapter, not the base model, and is a model argument itself."""
    losses, resumed, before = losses_resumed(base, ADD[kind], IDS, tmp_path / "step")
    assert losses[3] < losses[0]
    assert resumed == losses[2:]
    assert not list((tmp_path / "step").glob("model*"))
    np.testing.assert_array_equal(logits(load_model(tmp_path / "step")), before)
