"""The one place that knows which backend runs.

Keras is the numerics API everywhere else. What Keras does slowly, or not at all, on one backend is
written here, one small module a backend with the same functions; `KERAS_BACKEND` chooses.

    dense               x @ kernel + bias over the last axis; the kernel may be one of `held.py`
    holds_turned        should a model that only writes have its matrices `Turned`?
    packed              a matrix as the backend's library wants it, if it has such a thing
    track_anew          let go of what the layers within a layer have let go of
    lay_out_for_reading matrices turned in place so that products with few rows are fast
    causal_attention    attention of a whole sequence on itself, for training
    cached_attention    attention of new tokens on a cache
    cache_targets       where new tokens go in a cache, once for all layers
    write_cache         a cache with new tokens written there
    take_row, put_row   one row of a batch, and back into it
    cond                one of two functions, by a tensor
    put_column          one column of a tensor
    dropout             noise from a key, so that recomputation and resumption repeat it
    layer_norm          LayerNorm over the last axis
    rms_norm            RMSNorm over the last axis
    gelu_tanh           the GELU of GPT-2
    remat               recompute a function's activations in the backward pass
    gradient_of         a function with a gradient of one's own
    compiled            a function of tensors, compiled, without gradients
    recorded            a part of such a function, without the cost of the layers' Python
    synchronise         wait until a tensor is computed
    device              what the computation runs on
    JIT_TRAINING        is the training step compiled unless told otherwise?
    live_sync           bring a model's variables up to date in the middle of `fit`
    live_value          read an optimizer variable in the middle of `fit`
    live_assign         assign an optimizer variable in the middle of `fit`
"""

import importlib

import keras

from kgpt.backend.held import EightBits, Turned
from kgpt.errors import UsageError

name = keras.backend.backend()
if name not in ("jax", "tensorflow", "torch"):
    raise UsageError(f"KERAS_BACKEND={name} is not supported; use jax, tensorflow or torch.")

_chosen = importlib.import_module(f"kgpt.backend.{name}")

holds_turned = _chosen.holds_turned
packed = _chosen.packed
track_anew = _chosen.track_anew
lay_out_for_reading = _chosen.lay_out_for_reading
causal_attention = _chosen.causal_attention
cached_attention = _chosen.cached_attention
cache_targets = _chosen.cache_targets
write_cache = _chosen.write_cache
take_row = _chosen.take_row
put_row = _chosen.put_row
cond = _chosen.cond
put_column = _chosen.put_column
dropout = _chosen.dropout
layer_norm = _chosen.layer_norm
rms_norm = _chosen.rms_norm
gelu_tanh = _chosen.gelu_tanh
remat = _chosen.remat
gradient_of = _chosen.gradient_of
compiled = _chosen.compiled
recorded = _chosen.recorded
synchronise = _chosen.synchronise
device = _chosen.device
JIT_TRAINING = _chosen.JIT_TRAINING
live_sync = _chosen.live_sync
live_value = _chosen.live_value
live_assign = _chosen.live_assign


def dense(x, kernel, bias=None):
    """x (..., D) times kernel (D, F), plus bias (F,)."""
    if isinstance(kernel, EightBits):
        return kernel.dense(x, bias, _chosen.int8_product)
    if isinstance(kernel, Turned):
        return kernel.dense(x, bias, _chosen.turned_product)
    return _chosen.dense(x, kernel, bias)
