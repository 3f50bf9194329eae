"""The files beside the graph of a SavedModel: model card, warm-up and example requests.

assets.extra/README.md                    the model card: signatures, defaults, how to serve
assets.extra/tokenizer.json ...           the tokenizer and the default sampling, as files
assets.extra/tf_serving_warmup_requests   run by TensorFlow Serving before it is ready
assets.extra/models.config                for its --model_config_file
assets.extra/requests/                    an example for REST and one for gRPC
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog, PredictLog
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from kgpt.checkpoints.peft_format import base_folder
from kgpt.config import SamplingConfig
from kgpt.export.savedmodel.controls import default_controls
from kgpt.export.savedmodel.served_model import ServedModel
from kgpt.export.savedmodel.signatures import ServedGenerator

COPIED = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
# Inputs of the example request: of the first signature that a model has.
EXAMPLES: dict[str, dict[str, Any]] = {
    "generate": {"prompts": ["Once upon a time"]},
    "classify": {"texts": ["Once upon a time"]},
    "generate_ids": {"ids": [[0]]},
    "classify_ids": {"ids": [[0]]},
}
GRPC_CLIENT = '''"""Send an example to TensorFlow Serving: python grpc_client.py [localhost:8500]"""

import pathlib
import sys

import grpc
from google.protobuf import text_format
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

file = pathlib.Path(__file__).with_name("grpc.textproto")
request = text_format.Parse(file.read_text(), PredictRequest())
address = sys.argv[1] if len(sys.argv) > 1 else "localhost:8500"
with grpc.insecure_channel(address) as channel:
    reply = PredictionServiceStub(channel).Predict(request, timeout=60)
for name, tensor in reply.outputs.items():
    print(name, list(tensor.string_val or tensor.int_val or tensor.float_val))
'''


def write_assets(folder: Path, out: Path, served: ServedModel) -> None:
    """Write `assets.extra` of the SavedModel in `out`, made from the model of `folder`."""
    extra = out / "assets.extra"
    requests = extra / "requests"
    requests.mkdir(parents=True)
    for name in COPIED:
        own = folder / name
        file = own if own.is_file() else base_folder(folder) / name
        if file.is_file():
            shutil.copyfile(file, extra / name)
    name = model_name(out)
    example = example_request(served, name)
    (requests / "rest.json").write_text(json.dumps(as_rest(example), indent=2) + "\n")
    (requests / "grpc.textproto").write_text(text_format.MessageToString(example))
    (requests / "grpc_client.py").write_text(GRPC_CLIENT)
    (extra / "models.config").write_text(models_config(name))
    (extra / "README.md").write_text(model_card(name, served), encoding="utf-8")
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as file:
        for request in warm_up_requests(served, name):
            log = PredictionLog(predict_log=PredictLog(request=request))
            file.write(log.SerializeToString())


def model_name(out: Path) -> str:
    """The model's name: that of the folder with its numbered versions."""
    return out.absolute().parent.name or "kgpt"


def models_config(name: str) -> str:
    """The contents of TensorFlow Serving's --model_config_file."""
    config = ModelServerConfig()
    entry = config.model_config_list.config.add()
    entry.name, entry.base_path, entry.model_platform = name, f"/models/{name}", "tensorflow"
    return str(text_format.MessageToString(config))


def example_request(served: ServedModel, name: str) -> PredictRequest:
    """A request to the signature of most use, with each of its controls."""
    signature = next(each for each in EXAMPLES if each in served.signatures)
    return request_for(served, name, signature, EXAMPLES[signature])


def warm_up_requests(served: ServedModel, name: str) -> list[PredictRequest]:
    """A short request for each signature, so that no client waits for its first run."""
    turn = {"roles": [["user"]], "contents": [["Hello!"]]}
    inputs: dict[str, dict[str, Any]] = {
        "logits": {"ids": [[0, 1]]},
        "generate_ids": {"ids": [[0, 1]]},
        "classify": {"texts": ["Hello!"]},
        "classify_ids": {"ids": [[0, 1]]},
        "generate": {"prompts": ["Hello", "Hello, how are you?"]},
        "chat_generate": turn,
        "score": {"texts": ["Hello!"]},
        "tokenize": {"texts": ["Hello!"]},
        "detokenize": {"ids": [[0, 1]]},
    }
    short = SamplingConfig(max_tokens=2)
    return [
        request_for(served, name, signature, values, short)
        for signature, values in inputs.items()
        if signature in served.signatures
    ]


def request_for(
    served: ServedModel,
    name: str,
    signature: str,
    inputs: Mapping[str, Any],
    sampling: SamplingConfig | None = None,
) -> PredictRequest:
    """A request to one signature, with those controls that it takes."""
    request = PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = name, signature
    sampling = sampling or served.defaults
    # An empty stop string is ignored; TensorFlow Serving's JSON has no empty lists.
    controls = default_controls(sampling.model_copy(update={"stop": sampling.stop or [""]}))
    for spec in served.specs[signature]:
        value = inputs.get(spec.name, controls.get(spec.name))
        request.inputs[spec.name].CopyFrom(tf.make_tensor_proto(value, spec.dtype))
    return request


def as_rest(request: PredictRequest) -> dict[str, Any]:
    """The JSON body of the same request to /v1/models/NAME:predict."""

    def to_lists(tensor: Any) -> Any:
        values = tf.make_ndarray(tensor).tolist()
        return json.loads(json.dumps(values, default=lambda text: text.decode()))

    return {
        "signature_name": request.model_spec.signature_name,
        "inputs": {name: to_lists(tensor) for name, tensor in request.inputs.items()},
    }


def model_card(name: str, served: ServedModel) -> str:
    """The model card in Markdown."""
    config = served.model.config
    architecture = (
        f"{config.num_layers} layers of {config.hidden_dim}, {config.num_heads} heads, "
        f"{config.vocab_size} tokens, context {config.max_length}, "
        f"{served.model.count_params():,} parameters"
    )
    kind = "GPT" if isinstance(served, ServedGenerator) else "classifier"
    lines = [f"# {name}", "", f"A {kind} trained with kgpt: {architecture}.", ""]
    lines += ["## Signatures", ""]
    for signature, specs in sorted(served.specs.items()):
        inputs = ", ".join(spec.name for spec in specs)
        lines.append(f"- `{signature}`: {inputs}")
    lines += [f"- without `{missing}`: {reason}" for missing, reason in served.missing.items()]
    about = CLASSIFYING
    if isinstance(served, ServedGenerator):
        changed = served.defaults.model_dump(exclude_defaults=True) or {"all": "kgpt's defaults"}
        lines += ["", "## Default sampling", ""]
        lines += [f"- {key}: {value}" for key, value in changed.items()]
        about = GENERATING
    return "\n".join(lines) + "\n\n## Serving\n" + about + SERVING.format(name=name)


GENERATING = """
Each control is a list: one value for the whole batch, or one for each text. `seed` -1 is random;
`stop` applies to the whole batch. A conversation is two lists, `roles` and `contents`; a message
with an empty role is padding. Ids are padded with -1.
"""
CLASSIFYING = """
Of each text there are all `labels`, the most probable first, and their `scores`: probabilities,
which add up to 1 unless a text may have several labels. Ids are padded with -1.
"""
SERVING = """

    docker run -p 8500:8500 -p 8501:8501 -v "$PWD/{name}:/models/{name}" -e MODEL_NAME={name} \\
        tensorflow/serving
    curl -d @requests/rest.json http://localhost:8501/v1/models/{name}:predict
    python requests/grpc_client.py localhost:8500

For several models, mount the folder of all of them as /models and give
`--model_config_file=/models/models.config`.
"""
