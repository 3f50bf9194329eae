"""What is broken on purpose is found, and its place named; what is not broken passes."""

import json
import shutil

import numpy as np
import pytest

from kgpt.checkpoints.convert import export_hugging_face
from kgpt.checkpoints.pretrained import load_tokenizer
from kgpt.text.tokenizer import Tokenizer
from kgpt.verification.case import Case
from kgpt.verification.observation import Observation
from kgpt.verification.places import Place, all_places, recognise_exports, select
from kgpt.verification.probe import Probe
from kgpt.verification.reference import Reference
from kgpt.verification.verify import expect, result_of
from kgpt.verification.worker import observe
from tests.tiny import write_tiny_model

PLACE = Place("here", "", "jax")
TENSOR = "model.layers.1.mlp.down_proj.weight"
PATH = "block_1/mlp/down"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = Tokenizer.train_bpe(["the cat sat on the mat; a dog ran to the cat"] * 40, 300)
    path = tmp_path_factory.mktemp("model")
    return write_tiny_model(path, "llama", tokenizer, initializer_range=0.3, noise=0.1)


@pytest.fixture(scope="module")
def probe(folder):
    return Probe.make(load_tokenizer(folder), 32, num_tokens=4)


@pytest.fixture
def exported(folder, tmp_path):
    target = tmp_path / "hf"
    target.mkdir()
    export_hugging_face(folder, target)
    return target


def checked(seen, folder, probe):
    tokenizer = load_tokenizer(folder)
    return result_of(PLACE, seen, expect(folder, tokenizer, probe), probe, tokenizer)


def verified(module, function, folder, probe, export, tmp_path):
    """The result of one place on an existing export."""
    place = Place("here", f"kgpt.verification.{module}:{function}", "jax")
    seen = observe(place, Case(folder, probe, tmp_path, export))
    return checked(seen, folder, probe)


def the_one_sentence(result):
    assert not result.passed
    return result.sentences[0]


def edit_json(file, change):
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


# -- the model -------------------------------------------------------------------------------------


def change_epsilon(model):
    model.blocks[1].mlp_norm.epsilon = 0.01


def change_rotary_base(model):
    from kgpt import backend
    from kgpt.model.attention import Rotary, rotary_frequencies

    frequencies = rotary_frequencies(model.config.head_dim, 500.0).frequencies
    model.blocks[0].attention.rotary = Rotary(backend.constant(frequencies))


@pytest.mark.portable
@pytest.mark.backend
@pytest.mark.parametrize(
    ("change", "layer"),
    [(None, None), (change_epsilon, "block_1/mlp_norm"), (change_rotary_base, "block_0/attention")],
)
def test_a_layer_that_computes_something_else_is_named(change, layer, folder, probe):
    from kgpt.checkpoints.pretrained import load_model
    from kgpt.verification.backends import observe_model

    model = load_model(folder)
    if change is not None:
        change(model)
    case = Case(folder, Probe(**vars(probe) | {"prompts": []}), folder)
    seen = observe_model(model, Reference.load(folder), case)
    seen.tokens = None
    result = checked(seen, folder, probe)
    if change is None:
        assert result.passed, result.sentences
    else:
        assert f"the layer {layer} computes something else" in the_one_sentence(result)


# -- exports ---------------------------------------------------------------------------------------


def test_an_export_that_is_not_broken_passes(folder, probe, exported, tmp_path):
    result = verified("hugging_face", "observe_files", folder, probe, exported, tmp_path)
    assert result.passed, result.sentences
    assert {check.name for check in result.checks} == {"token_ids", "stop_tokens", "weights"}


def test_a_merge_that_was_removed_is_named(folder, probe, exported, tmp_path):
    merge = " ".join(json.loads((exported / "tokenizer.json").read_text())["model"]["merges"][3])
    edit_json(exported / "tokenizer.json", lambda values: values["model"]["merges"].pop(3))
    result = verified("hugging_face", "observe_files", folder, probe, exported, tmp_path)
    assert the_one_sentence(result).startswith("here: merge 3 of the tokenizer is ")
    assert the_one_sentence(result).endswith(f", not {merge!r}.")
    assert [check.name for check in result.checks if check.fault] == ["token_ids"]


def test_a_stop_token_that_is_missing_is_named(folder, probe, exported, tmp_path):
    file = exported / "generation_config.json"
    assert json.loads(file.read_text())["eos_token_id"] == [0, 2]
    edit_json(file, lambda values: values.update(eos_token_id=[0]))
    result = verified("hugging_face", "observe_files", folder, probe, exported, tmp_path)
    assert the_one_sentence(result) == "here: the stop tokens are [0], not [0, 2] (eos_token_id)."


def test_a_value_of_config_json_that_differs_is_named(folder, probe, exported, tmp_path):
    edit_json(exported / "config.json", lambda values: values.update(rms_norm_eps=1e-3))
    result = verified("hugging_face", "observe_files", folder, probe, exported, tmp_path)
    sentence = the_one_sentence(result)
    assert sentence == "here: config.json has the norm_epsilon 0.001, not 1e-05."


def flip_sign(file, offset):
    """Flip the sign of the little-endian float32 at `offset`."""
    content = bytearray(file.read_bytes())
    content[offset + 3] ^= 0x80
    file.write_bytes(content)


def test_one_flipped_weight_of_a_safetensors_file_is_named(folder, probe, exported, tmp_path):
    from kgpt.checkpoints.safetensors_io import open_tensors

    entry = open_tensors(exported)[TENSOR]
    flip_sign(entry.file, entry.offset + 4 * (entry.shape[1] + 5))
    result = verified("hugging_face", "observe_files", folder, probe, exported, tmp_path)
    sentence = the_one_sentence(result)
    assert f"the tensor {TENSOR} differs in 1 of 1536 weights: [1, 5] is" in sentence


def test_one_flipped_weight_of_a_gguf_file_is_named(folder, probe, tmp_path):
    gguf = pytest.importorskip("gguf")
    from kgpt.export.gguf import export_gguf

    export_gguf(folder, tmp_path)
    file = tmp_path / "model.gguf"
    assert verified("gguf", "observe_gguf", folder, probe, file, tmp_path).passed
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(str(file)).tensors}
    flip_sign(file, int(tensors["blk.1.ffn_down.weight"].data_offset))
    result = verified("gguf", "observe_gguf", folder, probe, file, tmp_path)
    assert "the tensor blk.1.ffn_down.weight differs in 1 of" in the_one_sentence(result)


def test_one_flipped_weight_of_an_onnx_graph_is_named(folder, probe, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from kgpt.export.onnx import export_onnx

    export_onnx(folder, tmp_path)
    result = verified("onnx", "observe_onnx", folder, probe, tmp_path, tmp_path)
    assert result.passed, result.sentences
    graph = onnx.load(str(tmp_path / "model.onnx"))
    (tensor,) = [x for x in graph.graph.initializer if x.name == PATH]
    value = onnx.numpy_helper.to_array(tensor).copy()
    value[2, 3] *= -1
    tensor.CopyFrom(onnx.numpy_helper.from_array(value, PATH))
    onnx.save(graph, str(tmp_path / "model.onnx"))
    result = verified("onnx", "observe_onnx", folder, probe, tmp_path, tmp_path)
    assert f"the tensor {PATH} differs in 1 of 1536 weights: [2, 3]" in the_one_sentence(result)
    assert {"logits", "weights"} & {check.name for check in result.checks if check.fault}


# -- greedy decoding -------------------------------------------------------------------------------


def test_greedy_text_is_equal_up_to_ties_and_stops_where_it_should(folder, probe):
    tokenizer = load_tokenizer(folder)
    expected = expect(folder, tokenizer, probe)
    stop = expected.stop_ids[0]

    def sentences(tokens):
        return result_of(PLACE, Observation(tokens=tokens), expected, probe, tokenizer).sentences

    right = [list(tokens) for tokens in expected.tokens]
    assert not sentences(right)
    wrong = [[*right[0][:2], int(expected.token_logits[0][2].argmin())], *right[1:]]
    assert "greedy token 2 of prompt 0 is" in sentences(wrong)[0]
    # The reference's two best are as good as equal: either may be chosen.
    rows = expected.token_logits[0][2]
    second = int(np.argsort(rows)[-2])
    rows[second] = rows.max() - 1e-6
    assert not sentences([[*right[0][:2], second, 7], *right[1:]])
    # A stop token ends the text: a text that ends without one is a fault, and one that goes on.
    ends = sentences([right[0][:1], *right[1:]])[0]
    assert f"after the token {right[0][0]}, at greedy token 1 of prompt 0, which should be" in ends
    first = right[1][0]
    expected.tokens[1][:] = [first, stop]
    assert not sentences([right[0], [first, stop], *right[2:]])
    goes_on = sentences([right[0], [first, stop, 5], *right[2:]])
    assert f"generation goes on after the stop token {stop}" in goes_on[0]


# -- places ----------------------------------------------------------------------------------------


def test_places_are_chosen_by_the_words_of_their_names(folder, exported):
    places = all_places(folder, has_gpu=True)
    assert len({place.name for place in places}) == len(places)
    names = [place.name for place in select(places, ["torch int8", "onnx"])]
    assert names == ["torch int8", "torch gpu int8", "onnx"]
    assert dict(recognise_exports([exported])) == {"hf": exported}


def test_a_place_whose_export_cannot_be_read_is_an_error(folder, probe, exported, tmp_path):
    shutil.rmtree(exported)
    result = verified("hugging_face", "observe_files", folder, probe, exported, tmp_path)
    assert not result.passed and "config.json" in the_one_sentence(result)
