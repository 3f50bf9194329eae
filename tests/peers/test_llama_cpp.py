"""A GGUF file in llama.cpp writes the same greedy text."""

import keras
import numpy as np
import pytest

pytest.importorskip("gguf")
llama_cpp = pytest.importorskip("xllamacpp")

from kgpt.checkpoints.pretrained import save_model  # noqa: E402
from kgpt.config import ModelConfig, SamplingConfig  # noqa: E402
from kgpt.errors import CheckpointError  # noqa: E402
from kgpt.export.gguf import export_gguf  # noqa: E402
from kgpt.generation.scheduler import generate  # noqa: E402
from kgpt.generation.sequence import Request  # noqa: E402
from kgpt.model.gpt import GPT  # noqa: E402
from kgpt.text.tokenizer import Tokenizer  # noqa: E402

LLAMA = {"position": "rotary", "norm": "rms", "activation": "swiglu", "bias": False}
SHAPES = {
    "gpt2": {},
    "llama": {**LLAMA, "num_kv_heads": 2},
    "untied": {**LLAMA, "tie_embeddings": False},
    "llama3": {
        **LLAMA,
        "rope_scaling": {"type": "llama3", "factor": 8.0, "original_max_length": 16},
    },
    "linear": {**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "qwen2": {**LLAMA, "qkv_bias": True},
    "qwen3": {**LLAMA, "qk_norm": True},
}
PROMPT, COUNT = "the cat sat", 12
GREEDY = SamplingConfig(temperature=0, max_tokens=COUNT)


@pytest.fixture(scope="module")
def tokenizer():
    text = "the cat sat on the mat. a dog ran; Hello world, it's a fine day!"
    return Tokenizer.train_bpe([text] * 50, 400)


def saved(values, tokenizer, folder):
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, max_length=128, num_layers=2, num_heads=4, hidden_dim=64,
        initializer_range=0.2, **values,
    )  # fmt: skip
    model = GPT(config, seed=3)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if len(variable.shape) == 1:
            variable.assign(variable.numpy() + rng.normal(0, 0.1, variable.shape))
    for name in ("model", "gguf"):
        (folder / name).mkdir()
    save_model(model, folder / "model", tokenizer)
    return model


def answered(file, prompt):
    settings = llama_cpp.CommonParams()
    settings.model.path = str(file)
    settings.n_ctx, settings.n_parallel, settings.warmup = 128, 1, False
    settings.cpuparams.n_threads = 1
    answer = llama_cpp.Server(settings).handle_completions(
        {"prompt": prompt, "max_tokens": COUNT, "temperature": 0, "top_k": 1, "ignore_eos": True}
    )
    return answer["choices"][0]["text"]


@pytest.mark.parametrize("name", SHAPES)
def test_llama_cpp_writes_the_same_text(name, tokenizer, tmp_path):
    model = saved(SHAPES[name], tokenizer, tmp_path)
    export_gguf(tmp_path / "model", tmp_path / "gguf")
    answer = answered(tmp_path / "gguf" / "model.gguf", PROMPT)
    start = tokenizer.encode(PROMPT)
    ids = np.zeros((1, len(start) + COUNT), "int32")
    ids[0, : len(start)] = start
    for place in range(len(start), ids.shape[1]):
        ids[0, place] = keras.ops.convert_to_numpy(model(ids))[0, place - 1].argmax()
    written = tokenizer.decode(ids[0, len(start) :].tolist(), skip_special_tokens=True)
    assert answer == written


def test_a_tokenizer_of_bytes_is_taken(tmp_path):
    bytes_alone, prompt = Tokenizer.of_bytes(), "ÿÿ und \u20ac"
    model = saved(SHAPES["gpt2"], bytes_alone, tmp_path)
    export_gguf(tmp_path / "model", tmp_path / "gguf")
    answer = answered(tmp_path / "gguf" / "model.gguf", prompt)
    written = generate(model, [Request(bytes_alone.encode(prompt), GREEDY)])[0].token_ids
    assert answer == bytes_alone.decode(written, skip_special_tokens=True)


def test_what_llama_cpp_has_no_form_of_is_refused(tokenizer, tmp_path):
    saved({"position": "sinusoidal"}, tokenizer, tmp_path)
    with pytest.raises(CheckpointError, match="cannot be written as GGUF"):
        export_gguf(tmp_path / "model", tmp_path / "gguf")
    assert not list((tmp_path / "gguf").iterdir())
