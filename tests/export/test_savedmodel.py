"""A SavedModel writes what the engine writes, wherever TensorFlow alone is installed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig
from tokenizers import normalizers

from kgpt.backend import name as backend_name
from kgpt.backend import to_host
from kgpt.checkpoints.pretrained import load_model
from kgpt.config import SamplingConfig
from kgpt.errors import KgptError
from kgpt.export.savedmodel.controls import CONTROLS, default_controls
from kgpt.export.savedmodel.export import export_saved_model
from kgpt.export.savedmodel.signatures import ServedGenerator
from kgpt.generation.generator import TextGenerator
from kgpt.text.tokenizer import Tokenizer
from tests.export.exported import SHAPE, WORDS

HERE = Path(__file__).parent
DRAW = random.Random(0)
# Some longer than the model's context, some empty.
PROMPTS = [" ".join(DRAW.choices(WORDS, k=DRAW.choice([0, 1, 3, 9, 40]))) for _ in range(80)]
SAMPLED = SamplingConfig(
    max_tokens=24, temperature=0.9, top_k=40, top_p=0.95, min_p=0.01, repetition_penalty=1.1, seed=5
)
LLAMA = {
    "position": "rotary", "norm": "rms", "activation": "swiglu", "bias": False, "num_kv_heads": 1,
}  # fmt: skip
ROLES, CONTENTS = [["system", "user"], ["user", ""]], [["Be brief.", "Who are you?"], ["Hi", ""]]


def with_controls(inputs, sampling, **others):
    """`inputs` and the controls of `sampling`, as plain values."""
    values = {name: value.numpy().tolist() for name, value in default_controls(sampling).items()}
    return {**inputs, **values, "stop": sampling.stop, **others}


@pytest.fixture(scope="module")
def engine(folder):
    with TextGenerator(folder) as engine:
        yield engine


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported)).signatures


@pytest.fixture(scope="module")
def alone(exported):
    """Replies of a process that can import TensorFlow only, by name; and what it saw."""
    greedy = SAMPLED.model_copy(update={"temperature": 0.0})
    seeds = [SAMPLED.seed + i for i in range(len(PROMPTS))]
    stopped = SAMPLED.model_copy(update={"stop": ["e", "kin", "\\E(?i)", "\x00", ".*"]})
    given = {"prompts": PROMPTS}
    requests = {
        "greedy": ["generate", with_controls(given, greedy)],
        "seeded": ["generate", with_controls(given, SAMPLED, seed=seeds)],
        "stopped": ["generate", with_controls(given, stopped, seed=seeds)],
        "default": ["serving_default", {"prompts": ["To be"]}],
        "chat": ["chat", {"roles": ROLES, "contents": CONTENTS}],
        "chat_generate": [
            "chat_generate", with_controls({"roles": ROLES, "contents": CONTENTS}, SAMPLED)],
        "logits": ["logits", {"ids": [[1, 2, 3], [4, 5, 6]]}],
        "one": ["logits", {"ids": [[7]]}],
        "continue_ids": ["continue_ids", {"ids": [[1, 2, 3], [4, -1, -1]]}],
        "generate_ids": ["generate_ids", with_controls({"ids": [[1, 2, 3], [4, -1, -1]]}, SAMPLED)],
        "score": ["score", {"texts": ["To be or not to be", "", "dog " * 200]}],
        "tokenize": ["tokenize", {"texts": ["To be", "", "<|im_end|>"]}],
        "detokenize": ["detokenize", {"ids": [[65, 66, 399], [67, -1, -1]]}],
        "cold": ["generate", with_controls(given, greedy, temperature=[-1.0])],
    }  # fmt: skip
    written = {
        name: [signature, {key: _latin(value) for key, value in inputs.items()}]
        for name, (signature, inputs) in requests.items()
    }
    done = run("only_tensorflow.py", exported, list(written.values()))
    return dict(zip(requests, done["replies"], strict=True)) | {"seen": done["seen"]}


def run(script, saved_model, request):
    child = subprocess.run(
        [sys.executable, HERE / script, saved_model],
        input=json.dumps(request), capture_output=True, text=True,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    return json.loads(child.stdout)


def _latin(value):
    if isinstance(value, list):
        return [_latin(part) for part in value]
    return value.encode().decode("latin-1") if isinstance(value, str) else value


def texts_of(reply):
    return [text.encode("latin-1").decode() for text in reply["text"]]


def outcomes(completions):
    """What a signature says of the engine's completions."""
    return {
        "text": [_latin(done.text) for done in completions],
        "num_tokens": [done.usage.completion_tokens for done in completions],
        "finish_reason": [done.finish_reason for done in completions],
    }


def test_nothing_but_tensorflow_was_there(alone):
    assert not {"kgpt", "keras", "tensorflow_text", "tokenizers"} & set(alone["seen"]["modules"])


def test_greedy_texts_are_the_engines(alone, engine):
    config = SAMPLED.model_copy(update={"temperature": 0.0})
    assert alone["greedy"] == outcomes(engine.generate_batch(PROMPTS, config))


def test_seeded_texts_are_the_engines(alone, engine):
    assert alone["seeded"] == outcomes(engine.generate_batch(PROMPTS, SAMPLED))


def test_stop_strings_end_texts_where_the_engine_ends_them(alone, engine):
    config = SAMPLED.model_copy(update={"stop": ["e", "kin", "\\E(?i)", "\x00", ".*"]})
    done = engine.generate_batch(PROMPTS, config)
    assert sum(completion.stop is not None for completion in done) > len(PROMPTS) // 4
    assert alone["stopped"] == outcomes(done)


def test_defaults_are_the_models_own(alone, engine):
    done = engine.generate("To be", engine.default_sampling)
    assert alone["default"] == outcomes([done])


def test_saved_model_cli_runs_the_default(alone, exported, engine):
    text = np.load(f"{exported}-cli/text.npy", allow_pickle=True)
    assert text[0].decode() == engine.generate("To be", engine.default_sampling).text


@pytest.mark.parametrize("signature", ["chat", "chat_generate"])
def test_replies_are_the_engines(signature, alone, engine):
    config = engine.default_sampling if signature == "chat" else SAMPLED
    expected = []
    for roles, contents in zip(ROLES, CONTENTS, strict=True):
        turns = zip(roles, contents, strict=True)
        messages = [{"role": role, "content": text} for role, text in turns if role]
        ids = engine.chat_template.encode(messages, add_generation_prompt=True)[0]
        expected.append(engine.generate([*engine.tokenizer.bos_ids, *ids], config))
    assert alone[signature] == outcomes(expected)


def test_ids_go_on_as_texts_do(alone, engine):
    for signature, config in (("continue_ids", engine.default_sampling), ("generate_ids", SAMPLED)):
        for row, prompt in enumerate(([1, 2, 3], [4])):
            ids = [i for i in alone[signature]["ids"][row] if i >= 0]
            assert ids == engine.generate(prompt, config).token_ids


def test_logits_are_the_models(alone, folder):
    model = load_model(folder)
    for name, ids in (("logits", [[1, 2, 3], [4, 5, 6]]), ("one", [[7]])):
        logits = to_host(model(np.array(ids)))
        np.testing.assert_allclose(alone[name]["logits"], logits, atol=1e-4)


def test_scores_are_sums_of_log_probabilities(alone, engine):
    tokenizer, window = engine.tokenizer, SHAPE["max_length"]
    for row, text in enumerate(["To be or not to be", "", "dog " * 200]):
        ids = [tokenizer.eos_id, *tokenizer.encode(text)]
        total = 0.0
        for start in range(0, len(ids) - 1, window):
            part = np.array(ids[start : start + window + 1])
            logits = np.array(to_host(engine.model(part[None, :-1])[0]), "float64")
            logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            total += logprobs[np.arange(len(part) - 1), part[1:]].sum()
        assert alone["score"]["num_tokens"][row] == len(ids) - 1
        assert alone["score"]["log_likelihood"][row] == pytest.approx(total, rel=1e-4, abs=1e-4)
        perplexity = np.exp(-total / max(len(ids) - 1, 1))
        assert alone["score"]["perplexity"][row] == pytest.approx(perplexity, rel=1e-3)


def test_texts_become_ids_and_ids_texts(alone, engine):
    hosts = engine.tokenizer.encode_batch(["To be", "", "<|im_end|>"])
    assert [[i for i in row if i >= 0] for row in alone["tokenize"]["ids"]] == hosts
    expected = [engine.tokenizer.decode([65, 66, 399]), engine.tokenizer.decode([67])]
    assert texts_of(alone["detokenize"]) == expected


def test_a_setting_out_of_bounds_is_refused_by_name(alone):
    assert "temperature should be greater than or equal to 0" in alone["cold"]


def test_each_text_of_a_batch_is_as_it_would_be_alone(loaded, alone):
    for row in (0, 3, 11):
        given = with_controls({"prompts": [PROMPTS[row]]}, SAMPLED, seed=[SAMPLED.seed + row])
        reply = loaded["generate"](**tensors(loaded["generate"], given))
        assert reply["text"].numpy()[0] == alone["seeded"]["text"][row].encode("latin-1")


def tensors(function, values):
    specs = function.structured_input_signature[1]
    return {name: tf.constant(values[name], spec.dtype) for name, spec in specs.items()}


def operations(saved_model):
    read = saved_model_pb2.SavedModel()
    read.ParseFromString((saved_model / "saved_model.pb").read_bytes())
    graph = read.meta_graphs[0].graph_def
    functions = {function.signature.name for function in graph.library.function}
    nodes = [node for function in graph.library.function for node in function.node_def]
    return {node.op for node in [*graph.node, *nodes]} - functions


def test_the_graph_is_of_core_tensorflow_alone(exported):
    used = operations(exported)
    assert used <= set(dir(tf.raw_ops))
    foreign = [name for name in used if "Xla" in name or "PyFunc" in name or "Custom" in name]
    assert not foreign


def test_it_loads_and_runs_through_the_c_api(exported, alone):
    read = saved_model_pb2.SavedModel()
    read.ParseFromString((exported / "saved_model.pb").read_bytes())
    signature = read.meta_graphs[0].signature_def["generate_ids"]
    values = with_controls({"ids": [[1, 2, 3], [4, -1, -1]]}, SAMPLED)
    inputs = []
    for name, info in signature.inputs.items():
        array = np.array(values[name])
        kind = tf.as_dtype(info.dtype).name
        inputs.append([info.name, kind, list(array.shape), array.reshape(-1).tolist()])
    request = {"inputs": inputs, "output": signature.outputs["ids"].name}
    assert run("c_api.py", exported, request) == alone["generate_ids"]["ids"]


def test_warm_up_requests_are_read_and_run(exported, loaded):
    file = exported / "assets.extra" / "tf_serving_warmup_requests"
    warmed = set()
    for record in tf.data.TFRecordDataset(str(file)):
        request = PredictionLog.FromString(record.numpy()).predict_log.request
        answer(loaded, request)
        warmed.add(request.model_spec.signature_name)
    # The other signatures are the same functions with controls filled in.
    assert warmed == set(loaded) - {"serving_default", "chat", "continue_ids"}


def test_example_requests_are_equal_and_run(exported, loaded):
    requests = exported / "assets.extra" / "requests"
    request = text_format.Parse((requests / "grpc.textproto").read_text(), PredictRequest())
    body = json.loads((requests / "rest.json").read_text())
    function = loaded[body["signature_name"]]
    by_rest = function(**tensors(function, body["inputs"] | {"temperature": [0.0]}))
    request.inputs["temperature"].CopyFrom(tf.make_tensor_proto([0.0]))
    by_grpc = answer(loaded, request)
    assert by_rest["text"].numpy().tolist() == by_grpc["text"].numpy().tolist()
    compile((requests / "grpc_client.py").read_text(), "grpc_client.py", "exec")


def answer(loaded, request):
    function = loaded[request.model_spec.signature_name]
    given = {name: tf.constant(tf.make_ndarray(t)) for name, t in request.inputs.items()}
    return function(**given)


def test_what_lies_beside_the_graph(exported):
    extra = exported / "assets.extra"
    config = text_format.Parse((extra / "models.config").read_text(), ModelServerConfig())
    assert config.model_config_list.config[0].base_path == "/models/served"
    assert Tokenizer.load(extra).encode("To be")
    card = (extra / "README.md").read_text()
    assert all(f"`{name}`" in card for name in ("generate", "chat", "score"))


@pytest.mark.backend
@pytest.mark.skipif(backend_name != "tensorflow", reason="a graph of TensorFlow")
def test_a_tokenizer_beyond_the_graph_leaves_signatures_on_ids(folder):
    inner = tokenizers.Tokenizer.from_str(Tokenizer.load(folder).to_json())
    inner.normalizer = normalizers.NFC()
    served = ServedGenerator(load_model(folder), Tokenizer(inner), SamplingConfig(temperature=0))
    assert set(served.signatures) == {"logits", "generate_ids", "continue_ids", "serving_default"}
    assert "it normalises text (NFC)" in served.missing["generate"]
    ids = served.signatures["serving_default"](tf.constant([[1, 2, 3]]))["ids"]
    with TextGenerator(folder) as engine:
        assert ids.numpy()[0].tolist() == engine.generate([1, 2, 3], served.defaults).token_ids


def test_every_control_is_a_field_of_the_sampling_config():
    known = SamplingConfig.model_fields
    assert {name for name in CONTROLS if name not in known} == {"max_new_tokens"}


def test_a_damaged_model_gives_its_sentence(folder, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in folder.iterdir():
        (damaged / file.name).write_bytes(
            file.read_bytes()[: 1000 if "safe" in file.name else None]
        )
    (tmp_path / "out").mkdir()
    with pytest.raises(KgptError, match="model.safetensors"):
        export_saved_model(damaged, tmp_path / "out")


@pytest.mark.slow
def test_models_trained_on_three_backends_are_served_alike(tmp_path):
    replies = {}
    for backend in ("tensorflow", "jax", "torch"):
        trained, target = tmp_path / backend, tmp_path / f"served-{backend}" / "1"
        trained.mkdir()
        target.mkdir(parents=True)
        command = [sys.executable, HERE / "train_and_save.py", trained]
        subprocess.run(command, env=os.environ | {"KERAS_BACKEND": backend}, check=True)
        export_saved_model(trained, target)
        served = tf.saved_model.load(str(target)).signatures
        given = with_controls({"prompts": ["the king", "to "]}, SamplingConfig(temperature=0))
        reply = served["generate"](**tensors(served["generate"], given))
        logits = served["logits"](ids=tf.constant([[116, 104, 101, 32]]))["logits"].numpy()
        replies[backend] = (reply["text"].numpy().tolist(), logits)
    for text, logits in replies.values():
        assert text == replies["jax"][0]
        np.testing.assert_allclose(logits, replies["jax"][1], atol=2e-3)


@pytest.mark.slow
def test_an_interrupted_export_leaves_nothing_half_written(folder, tmp_path):
    target = tmp_path / "served" / "1"
    command = ["export", "--model", folder, "--format", "savedmodel", "--out", target]
    child = subprocess.Popen([sys.executable, "-m", "kgpt", *command])
    while not list(tmp_path.glob("served/.partial-*")):
        assert child.poll() is None
        time.sleep(0.1)
    time.sleep(3)
    child.send_signal(signal.SIGINT)
    assert child.wait(60) == 130
    assert list((tmp_path / "served").iterdir()) == []
