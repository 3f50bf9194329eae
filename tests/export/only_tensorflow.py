"""Serve a SavedModel where nothing but TensorFlow can be imported; run by test_savedmodel.py.

    python only_tensorflow.py SAVED_MODEL < requests.json > replies.json

A request is [signature, {input: values}]; a reply {output: values}, or the text of an error. Bytes
are written as Latin-1. What saved_model_cli writes lies in SAVED_MODEL-cli.
"""

import builtins
import contextlib
import json
import sys

BLOCKED = (
    "kgpt",
    "keras",
    "keras_hub",
    "keras_nlp",
    "tensorflow_text",
    "tokenizers",
    "jax",
    "torch",
)
original = builtins.__import__


def guarded(name, *args, **kwargs):
    if name.split(".")[0] in BLOCKED:
        raise ImportError(f"{name} is blocked")
    return original(name, *args, **kwargs)


class Blocker:
    def find_spec(self, name, path=None, target=None):
        # TensorFlow asks where Keras is, without importing it.
        if name != "keras" and name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")


sys.meta_path.insert(0, Blocker())
builtins.__import__ = guarded

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402


def plain(tensor):
    values = tensor.numpy()
    if tensor.dtype == tf.string:
        flat = [value.decode("latin-1") for value in values.reshape(-1)]
        return np.array(flat, dtype=object).reshape(values.shape).tolist()
    return values.tolist()


def reply(function, inputs):
    specs = function.structured_input_signature[1]
    tensors = {}
    for name, spec in specs.items():
        value = inputs[name]
        if spec.dtype == tf.string:
            flat = [text.encode("latin-1") for text in np.array(value, dtype=object).reshape(-1)]
            value = np.array(flat, dtype=object).reshape(np.shape(value))
        tensors[name] = tf.constant(value, spec.dtype)
    try:
        return {name: plain(value) for name, value in function(**tensors).items()}
    except tf.errors.InvalidArgumentError as error:
        return str(error)


def run_cli(folder):
    """What `saved_model_cli run` does, in this process."""
    from absl import flags
    from tensorflow.python.tools import saved_model_cli

    command = f"run --dir={folder} --tag_set=serve --signature_def=serving_default --overwrite"
    command += f" --outdir={folder}-cli"
    flags.FLAGS([*command.split(), "--input_exprs=prompts=[b'To be', b'']"])
    with contextlib.redirect_stdout(sys.stderr):
        saved_model_cli.run()


def main(folder):
    loaded = tf.saved_model.load(folder)
    requests = json.load(sys.stdin)
    replies = [reply(loaded.signatures[name], inputs) for name, inputs in requests]
    run_cli(folder)
    seen = {"signatures": sorted(loaded.signatures), "modules": sorted(set(sys.modules))}
    json.dump({"replies": replies, "seen": seen}, sys.stdout)


main(sys.argv[1])
