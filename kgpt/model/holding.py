"""A model that only writes holds its matrices in the way that is read fastest.

In 8 bits, each matrix becomes int8 with one scale for each output, just as `kgpt quantize --bits 8`
stores it: a quarter of the memory, and of what is read a token. What is multiplied with a matrix is
rounded to 8 bits too; all else stays float. Turned, it keeps its numbers and is read in another
order.
"""

import keras
from keras import ops

from kgpt import backend
from kgpt.backend.held import EightBits, Turned
from kgpt.model.quantized import to_int8

MATRICES = {"attention": ("qkv", "output_kernel"), "mlp": ("up", "down")}  # (in, out)


def hold_in_8_bits(model):
    """Hold the matrices of `model` in 8 bits. It can neither be trained nor saved from then on."""
    tied = model.head is model.token_embedding
    _replace(model, "token_embedding", _in_8_bits)
    _replace(
        model, "head",
        lambda layer, table: model.token_embedding if tied else _in_8_bits(layer, table),
    )  # fmt: skip
    _replace_kernels(model, lambda layer, kernel: _in_8_bits(layer, kernel, transposed=True))


def hold_turned(model):
    """Hold the matrices of `model` turned. It can neither be trained nor saved from then on."""
    model.head = Turned(model.head)  # (V, D): outputs come first already
    _replace_kernels(model, _turned)


def _replace_kernels(model, made):
    for block in model.blocks:
        for part, names in MATRICES.items():
            for name in names:
                _replace(getattr(block, part), name, made)


def _replace(layer, name, made):
    """Put `made(layer, variable)` in the place of a variable, which is let go."""
    variable = getattr(layer, name)
    layer._untrack_variable(variable)
    # TensorFlow's own record of the layer has it too. (Keras would collect garbage each time.)
    super(keras.Layer, layer).__delattr__(name)
    setattr(layer, name, made(layer, variable))


def _in_8_bits(layer, variable, transposed=False):
    """A matrix (out, in), or its transpose."""
    matrix = ops.convert_to_numpy(variable).astype("float32")
    q, scale = to_int8(matrix.T if transposed else matrix)
    return EightBits(
        _fixed(layer, f"{variable.name}_q", q, "int8"),
        _fixed(layer, f"{variable.name}_scale", scale[:, 0], variable.dtype),
    )


def _turned(layer, variable):
    turned = ops.transpose(variable)
    return Turned(_fixed(layer, f"{variable.name}_turned", turned, variable.dtype))


def _fixed(layer, name, value, dtype):
    """A variable of a layer that is built already."""
    layer._tracker.unlock()
    try:
        with keras.name_scope(layer.name):
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
    """x (..., D) times each row of a table (V, D), which may be held: (..., V)."""
    held = isinstance(table, (EightBits, Turned))
    return backend.dense(x, table if held else ops.transpose(table))
