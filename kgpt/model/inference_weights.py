"""A model that only writes holds its matrices in the way that is read fastest.

`GPT(config, holding=...)` hands over each part as soon as it is made, so that no more than one
part is ever there twice. Such a model can neither be trained nor saved.
"""

import keras
from keras import ops

from kgpt import backend
from kgpt.backend.held import Int8Weight, TransposedWeight
from kgpt.model.quantization import quantize_int8

MATRICES = {"attention": ("qkv", "output_kernel"), "mlp": ("up", "down")}  # (in, out)


class InEightBits:
    """Each matrix becomes int8 with one scale for each output, just as `kgpt quantize --bits 8`
    stores it: a quarter of the memory, and of what is read a token. What is multiplied with a
    matrix is rounded to 8 bits too; all else stays float.
    """

    def tables(self, model):
        """Hold the embedding and the head, (V, D), of a model."""
        tied = model.head is model.token_embedding
        _replace(model, "token_embedding", _in_8_bits)
        _replace(
            model, "head",
            lambda layer, table: model.token_embedding if tied else _in_8_bits(layer, table),
        )  # fmt: skip

    def kernels(self, block):
        """Hold the matrices of a block."""
        _replace_kernels(block, lambda layer, kernel: _in_8_bits(layer, kernel, transposed=True))


class InReadingOrder:
    """Each matrix keeps its numbers and is held as its transpose, or `backend.prepack_weight`.

    A packed head is there beside the embedding, whose rows must be found one by one.
    """

    def tables(self, model):
        """Hold the head, (V, D), of a model."""
        table = backend.prepack_weight(model.head)
        if table is None:  # outputs come first already
            model.head = TransposedWeight(model.head)
        elif model.head is model.token_embedding:
            model.head = TransposedWeight(table)
        else:
            _replace(model, "head", lambda layer, variable: TransposedWeight(table))

    def kernels(self, block):
        """Hold the matrices of a block."""
        _replace_kernels(block, _turned)


def _replace_kernels(block, made):
    for part, names in MATRICES.items():
        for name in names:
            _replace(getattr(block, part), name, made)
    backend.refresh_tracking(block)


def _replace(layer, name, made):
    """Put `made(layer, variable)` in the place of a variable, which is let go."""
    variable = getattr(layer, name)
    layer._untrack_variable(variable)
    # TensorFlow's own record of the layer has it too. (Keras would collect garbage each time.)
    super(keras.Layer, layer).__delattr__(name)
    setattr(layer, name, made(layer, variable))


def _in_8_bits(layer, variable, transposed=False):
    """A matrix (out, in), or its transpose."""
    matrix = ops.convert_to_numpy(variable).astype("float32", copy=False)
    q, scale = quantize_int8(matrix.T if transposed else matrix)
    return Int8Weight(
        _fixed(layer, f"{variable.name}_q", q, "int8"),
        _fixed(layer, f"{variable.name}_scale", scale[:, 0], variable.dtype),
    )


def _turned(layer, variable):
    turned = ops.transpose(variable)
    packed = backend.prepack_weight(turned)
    if packed is not None:
        return TransposedWeight(packed)
    return TransposedWeight(_fixed(layer, f"{variable.name}_turned", turned, variable.dtype))


def _fixed(layer, name, value, dtype):
    """A variable of a layer that may be built already."""
    locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        with keras.name_scope(layer.name):
            return layer.add_weight(
                name=name, shape=value.shape, dtype=dtype, trainable=False,
                initializer=lambda shape, dtype: ops.convert_to_tensor(value, dtype),
            )  # fmt: skip
    finally:
        if locked:
            layer._tracker.lock()


def looked_up(table, ids):
    """Rows `ids` (B, T) of a table (V, D), which may be held in 8 bits: (B, T, D)."""
    if not isinstance(table, Int8Weight):
        return ops.take(table, ids, axis=0)
    scale = ops.take(table.scale, ids, axis=0)
    return ops.cast(ops.take(table.q, ids, axis=0), scale.dtype) * scale[..., None]


def scores(x, table):
    """x (..., D) times each row of a table (V, D), which may be held: (..., V)."""
    held = isinstance(table, (Int8Weight, TransposedWeight))
    return backend.dense(x, table if held else ops.transpose(table))
