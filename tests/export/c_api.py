"""Run a SavedModel through TensorFlow's C API, as servers in other languages do; no Python API.

    python c_api.py SAVED_MODEL < request.json > reply.json

The request names the graph's tensors: {"inputs": [[name, type, shape, values]], "output": name}.
"""

import ctypes
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

TYPES = {"float32": 1, "int32": 3}


class Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


def library():
    folder = Path(importlib.util.find_spec("tensorflow").submodule_search_locations[0])
    ctypes.CDLL(str(next(folder.glob("libtensorflow_framework.so*"))), ctypes.RTLD_GLOBAL)
    tf = ctypes.CDLL(str(next(folder.glob("libtensorflow_cc.so*"))), ctypes.RTLD_GLOBAL)
    pointers = (
        "TF_NewStatus TF_NewGraph TF_NewSessionOptions TF_LoadSessionFromSavedModel "
        "TF_GraphOperationByName TF_AllocateTensor TF_TensorData"
    )
    for name in pointers.split():
        getattr(tf, name).restype = ctypes.c_void_p
    tf.TF_Message.restype = ctypes.c_char_p
    tf.TF_Dim.restype = ctypes.c_int64
    return tf


def main(folder):
    tf = library()
    request = json.load(sys.stdin)
    pointer = ctypes.c_void_p
    status, graph = pointer(tf.TF_NewStatus()), pointer(tf.TF_NewGraph())

    def check():
        if tf.TF_GetCode(status) != 0:
            raise SystemExit(tf.TF_Message(status).decode())

    def output(name):
        operation, _, index = name.partition(":")
        found = tf.TF_GraphOperationByName(graph, operation.encode())
        assert found, name
        return Output(found, int(index))

    tags = (ctypes.c_char_p * 1)(b"serve")
    options = pointer(tf.TF_NewSessionOptions())
    session = pointer(
        tf.TF_LoadSessionFromSavedModel(
            options, None, folder.encode(), tags, 1, graph, None, status
        )
    )
    check()
    feeds, tensors = [], []
    for name, kind, shape, values in request["inputs"]:
        array = np.ascontiguousarray(np.array(values, kind).reshape(shape))
        dims = (ctypes.c_int64 * len(shape))(*shape)
        size = ctypes.c_size_t(array.nbytes)
        tensor = pointer(tf.TF_AllocateTensor(TYPES[kind], dims, len(shape), size))
        ctypes.memmove(tf.TF_TensorData(tensor), array.ctypes.data, array.nbytes)
        feeds.append(output(name))
        tensors.append(tensor)
    count = len(feeds)
    fetched = (ctypes.c_void_p * 1)()
    tf.TF_SessionRun(
        session, None,
        (Output * count)(*feeds), (ctypes.c_void_p * count)(*tensors), count,
        (Output * 1)(output(request["output"])), fetched, 1,
        None, 0, None, status,
    )  # fmt: skip
    check()
    result = pointer(fetched[0])
    shape = [tf.TF_Dim(result, i) for i in range(tf.TF_NumDims(result))]
    items = int(np.prod(shape))
    kind = ctypes.c_int32 if tf.TF_TensorType(result) == TYPES["int32"] else ctypes.c_float
    values = (kind * items).from_address(tf.TF_TensorData(result))
    assert "tensorflow" not in sys.modules
    json.dump(np.array(values).reshape(shape).tolist(), sys.stdout)


main(sys.argv[1])
