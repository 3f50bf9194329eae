"""A model held in 8 bits while it writes: a quarter of the memory, and of what is read a token.

Each matrix becomes int8 with one scale for each output, just as `kgpt quantize --bits 8` stores it.
What is multiplied with a matrix is rounded to 8 bits too; all else stays float.
"""

import keras
from keras import ops

from kgpt import backend
from kgpt.backend.eight_bits import EightBits
from kgpt.model.quantized import to_int8

MATRICES = {"attention": ("qkv", "output_kernel"), "mlp": ("up", "down")}  # (in, out)


def hold_in_8_bits(model):
    """Hold the matrices of `model` in 8 bits. It can neither be trained nor saved from then on."""
    table, head = model.token_embedding, model.head
    model.token_embedding = _held(model, table, ops.convert_to_numpy(table))
    tied = head is table
    model.head = model.token_embedding if tied else _held(model, head, ops.convert_to_numpy(head))
    for block in model.blocks:
        for part, names in MATRICES.items():
            layer = getattr(block, part)
            for name in names:
                kernel = getattr(layer, name)
                setattr(layer, name, _held(layer, kernel, ops.convert_to_numpy(kernel).T))


def _held(layer, variable, matrix):
    """`variable`, which is `matrix` (out, in) or its transpose, in 8 bits in its place."""
    q, scale = to_int8(matrix.astype("float32"))
    layer._untrack_variable(variable)
    with keras.name_scope(layer.name):
        return EightBits(
            _fixed(layer, f"{variable.name}_q", q, "int8"),
            _fixed(layer, f"{variable.name}_scale", scale[:, 0], variable.dtype),
        )


def _fixed(layer, name, value, dtype):
    """A variable of a layer that is built already."""
    layer._tracker.unlock()
    try:
        return layer.add_weight(
            name=name, shape=value.shape, dtype=dtype, trainable=False,
            initializer=lambda shape, dtype: ops.convert_to_tensor(value, dtype),
        )  # fmt: skip
    finally:
        layer._tracker.lock()


def looked_up(table, ids):
    """Rows `ids` (B, T) of a table (V, D), which may be held in 8 bits: (B, T, D)."""
    if not isinstance(table, EightBits):
        return ops.take(table, ids, axis=0)
    scale = ops.take(table.scale, ids, axis=0)
    return ops.cast(ops.take(table.q, ids, axis=0), scale.dtype) * scale[..., None]


def scores(x, table):
    """x (..., D) times each row of a table (V, D), which may be held in 8 bits: (..., V)."""
    return backend.dense(x, table if isinstance(table, EightBits) else ops.transpose(table))
