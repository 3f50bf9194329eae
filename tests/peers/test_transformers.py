"""Models of `transformers` in kgpt, and kgpt's in `transformers`: the same logits and text."""

import logging

import keras
import numpy as np
import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import torch  # noqa: E402

from kgpt import backend  # noqa: E402
from kgpt.checkpoints.pretrained import load_model, save_model  # noqa: E402
from kgpt.config import ModelConfig, SamplingConfig  # noqa: E402
from kgpt.model.gpt import GPT  # noqa: E402
from kgpt.text.tokenizer import Tokenizer  # noqa: E402

pytestmark = pytest.mark.backend

SHARED = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "initializer_range": 0.3,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
GPT2 = {"vocab_size": 97, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4,
        "initializer_range": 0.3}  # fmt: skip
THEIRS = {
    "gpt2": ("GPT2", GPT2),
    "gpt2-untied": ("GPT2", {**GPT2, "tie_word_embeddings": False, "n_inner": 48}),
    "gpt2-exact-gelu": ("GPT2", {**GPT2, "activation_function": "gelu"}),
    "llama": ("Llama", SHARED),
    "llama-tied": ("Llama", {**SHARED, "tie_word_embeddings": True, "head_dim": 16}),
    "llama-biases": ("Llama", {**SHARED, "attention_bias": True}),
    "llama-mlp-biases": ("Llama", {**SHARED, "mlp_bias": True}),
    "llama-linear": ("Llama", {**SHARED, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "llama-dynamic": ("Llama", {**SHARED, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    "llama-llama3": ("Llama", {**SHARED, "rope_scaling": LLAMA3}),
    "llama-yarn": ("Llama", {**SHARED, "rope_scaling": YARN}),
    "llama-yarn-mscale": (
        "Llama", {**SHARED, "rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}},
    ),
    "mistral": ("Mistral", {**SHARED, "sliding_window": 5}),
    "mistral-full": ("Mistral", {**SHARED, "sliding_window": None}),
    "qwen2": ("Qwen2", {**SHARED, "tie_word_embeddings": True}),
    "qwen2-window": (
        "Qwen2",
        {**SHARED, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0},
    ),
    "qwen3": ("Qwen3", {**SHARED, "head_dim": 16}),
}  # fmt: skip
OURS = {
    "gpt2": {},
    "gpt2-no-biases": {"bias": False, "tie_embeddings": False},
    "llama": {"num_kv_heads": 2, "intermediate_dim": 48},
    "llama-untied": {"tie_embeddings": False, "rope_theta": 500.0},
    "mistral": {"sliding_window": 5},
    "qwen2": {"qkv_bias": True, "num_kv_heads": 1},
    "qwen3": {"qk_norm": True, "head_dim": 16},
    "yarn": {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_length": 16}},
}
ROTARY = {"position": "rotary", "norm": "rms", "activation": "swiglu", "bias": False}
IDS = np.random.default_rng(1).integers(0, 97, (2, 40))


def theirs(name):
    """A random model of `transformers`, with random norms and biases too."""
    kind, values = THEIRS[name]
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**values)
    model = getattr(
        transformers, f"{'GPT2LMHeadModel' if kind == 'GPT2' else kind + 'ForCausalLM'}"
    )
    model = model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def logits_of_theirs(model):
    with torch.no_grad():
        return backend.to_host(model(torch.tensor(IDS)).logits)


def logits_of_ours(model):
    compiled = backend.jit(model.__call__, model.variables)
    return keras.ops.convert_to_numpy(compiled(IDS.astype("int32")))


def greedy(model, count=20):
    compiled = backend.jit(model.__call__, model.variables)
    ids = np.zeros((1, 8 + count), dtype="int32")  # one shape, so that nothing is compiled twice
    ids[:, :8] = IDS[:1, :8]
    for place in range(8, 8 + count):
        ids[0, place] = keras.ops.convert_to_numpy(compiled(ids))[0, place - 1].argmax()
    return ids.tolist()


def greedy_of_theirs(model, count=20):
    written = model.generate(
        torch.tensor(IDS[:1, :8]), max_new_tokens=count, min_new_tokens=count, do_sample=False,
        repetition_penalty=1.0, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    return written.tolist()


@pytest.fixture
def complaints(caplog):
    """What `transformers` warns of."""
    transformers.utils.logging.enable_propagation()
    caplog.set_level(logging.WARNING, logger="transformers")
    yield lambda: [record.getMessage() for record in caplog.records]
    transformers.utils.logging.disable_propagation()


@pytest.mark.parametrize("name", THEIRS)
def test_a_model_of_transformers_gives_the_same_logits(name, tmp_path):
    model = theirs(name)
    model.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    np.testing.assert_allclose(logits_of_ours(ours), logits_of_theirs(model), atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama-tied", "qwen2"])
def test_and_the_same_text_there_and_back(name, tmp_path, complaints):
    model = theirs(name)
    model.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    assert greedy(ours) == greedy_of_theirs(model)
    back = tmp_path / "back"
    back.mkdir()
    save_model(ours, back)
    again = transformers.AutoModelForCausalLM.from_pretrained(back)
    assert not [line for line in complaints() if "weight" in line.lower()]
    for mine, original in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, original)


@pytest.mark.portable
@pytest.mark.parametrize("name", OURS)
def test_a_model_of_kgpt_is_read_without_a_warning(name, tmp_path, complaints):
    values = OURS[name] if name.startswith("gpt2") else ROTARY | OURS[name]
    model = GPT(
        ModelConfig(
            vocab_size=259, max_length=64, num_layers=2, num_heads=4, hidden_dim=32,
            initializer_range=0.3, **values,
        ),
        seed=5,
    )  # fmt: skip
    save_model(model, tmp_path, Tokenizer.of_bytes(), sampling=SamplingConfig())
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not complaints()
    np.testing.assert_allclose(logits_of_theirs(again), logits_of_ours(model), atol=1e-4)
    assert greedy_of_theirs(again) == greedy(model)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_stored_and_read_alike(dtype, tmp_path):
    model = theirs("llama").to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    widened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    np.testing.assert_allclose(logits_of_ours(ours), logits_of_theirs(widened), atol=1e-4)
    back = tmp_path / "back"
    back.mkdir()
    save_model(ours, back, dtype=dtype)
    again = transformers.AutoModelForCausalLM.from_pretrained(back, dtype="auto")
    assert again.dtype == getattr(torch, dtype)
    assert torch.equal(again.lm_head.weight.float(), model.lm_head.weight.float())


def test_sharded_and_prefixless_files_are_read(tmp_path):
    model = theirs("gpt2")
    expected = logits_of_theirs(model)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    np.testing.assert_allclose(logits_of_ours(load_model(tmp_path / "shards")), expected, atol=1e-4)
    model.transformer.save_pretrained(tmp_path / "bare")
    np.testing.assert_allclose(logits_of_ours(load_model(tmp_path / "bare")), expected, atol=1e-4)
