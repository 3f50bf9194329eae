"""The functions that differ between backends.

All other code uses `keras.ops`. What Keras lacks, or does slowly, on some backend is here: one
module per backend with the same functions, chosen by `KERAS_BACKEND`.

    dense               x @ kernel + bias over the last axis
    matmul_nt           x times the transpose of a matrix, which may be prepacked
    int8_linear         x times an int8 weight, each token being rounded to int8, plus bias
    int4_linear         x times an int4 weight with a scale for each 32 inputs, plus bias
    prepack_int8, prepack_int4      such products with the weight in the layout of a library, as
                        functions of x and bias; None where there is no such library.
                        `store(name, tensor)` keeps a part as a variable, where functions that
                        are compiled take it as an argument
    prefers_transposed_weights   are small-batch products faster with weights stored (out, in)?
    prepack_weight      a weight in the packed layout of the matmul library; None if it has none
    refresh_tracking    drop references to variables that child layers have released
    transpose_weights_inplace    store weights in column-major order
    causal_attention    causal self-attention of whole sequences
    cached_attention    attention of new tokens on the filled part of a KV cache
    cache_indices       the positions of new tokens in a KV cache, shared by all layers
    update_cache        write new tokens to a KV cache
    split               the parts of a tensor along an axis
    slice_row, update_row   read and write one row of a batch
    cond                call one of two functions, chosen by a tensor
    update_column       write one column of a tensor
    occurs              which token ids are in each row of a tensor
    dropout             dropout with an explicit key, so that its mask can be repeated
    layer_norm          LayerNorm over the last axis
    rms_norm            RMSNorm over the last axis
    gelu_tanh           the GELU of GPT-2
    remat               recompute a function's activations in the backward pass
    custom_gradient     a function with its own gradient
    without_gradient    a function whose outputs are constants for the gradient
    jit                 compile a function of tensors, without gradients
    jit_steps           compile a step that is repeated, without a condition on the host
    branches_on_host    does a `cond` make the host wait for the device?
    specializes_decoding    is there a decode program for each kind of batch?
    fx_trace            trace a part of such a function to an FX graph (PyTorch)
    to_host             copy tensors to numpy arrays; the one place where this happens
    to_device           copy numpy arrays to tensors without waiting for the device
    compiles_regions    does `compile(jit_compile=...)` compile parts of the step, or all of it?
    compile_regions     compile functions of tensors, with gradients, each a part of the step
    constant            an array that layers use at each call
    prefetch            a data set whose batches are put on the device ahead of time
    synchronize         wait until a tensor is computed
    set_precision       how float32 matrices are multiplied from now on: in float32 or TF32
    limit_memory        use at most a fraction of the GPU's memory
    device_memory       bytes of the GPU's memory that this process may use; None on a CPU
    device              platform and name of the device in use
    peak_memory         the most bytes of memory in use so far
    device_scope        place new variables on a device
    optimizer_class     the fastest form of one of Keras's optimizers
    JIT_TRAINING        the default of `compile(jit_compile=...)`
    sync_model_state    bring a model's variables up to date during `fit`
    read_optimizer_var  read an optimizer variable during `fit`
    assign_optimizer_var    assign an optimizer variable during `fit`
    distribution        many devices and processes, each of these a function of it:
        distribute          spread the models made from now on over a mesh of devices
        batch_shards        among how many devices a batch is divided
        constrain, constrain_stream     how a tensor, the residual stream, is sharded
        gather_parameter    a parameter whole along `data`, for the layer that uses it
        place_shards, assign_shards     put on each device its shard of an array
        gather              an array sharded over processes, whole in each
        process_index, process_count, is_primary    this process in its group
    processes           a group of processes, each of these a function of it:
        join, leave         meet the others at the coordinator; wait for them at the end
        is_lost_process     did a step fail because another process is gone?
        device_count        devices of all processes
        batch_part          which part of a batch this process makes
        computed_by_one     what process 0 computes with a model on one device
"""

import importlib

import keras

from kgpt.config import memory_fraction
from kgpt.errors import UsageError

name = keras.backend.backend()
if name not in ("jax", "tensorflow", "torch"):
    raise UsageError(f"KERAS_BACKEND={name} is not supported; use jax, tensorflow or torch.")

_chosen = importlib.import_module(f"kgpt.backend.{name}")

dense = _chosen.dense
matmul_nt = _chosen.matmul_nt
int8_linear = _chosen.int8_linear
int4_linear = _chosen.int4_linear
prepack_int8 = _chosen.prepack_int8
prepack_int4 = _chosen.prepack_int4
prefers_transposed_weights = _chosen.prefers_transposed_weights
prepack_weight = _chosen.prepack_weight
refresh_tracking = _chosen.refresh_tracking
transpose_weights_inplace = _chosen.transpose_weights_inplace
causal_attention = _chosen.causal_attention
cached_attention = _chosen.cached_attention
cache_indices = _chosen.cache_indices
update_cache = _chosen.update_cache
split = _chosen.split
slice_row = _chosen.slice_row
update_row = _chosen.update_row
cond = _chosen.cond
update_column = _chosen.update_column
occurs = _chosen.occurs
dropout = _chosen.dropout
layer_norm = _chosen.layer_norm
rms_norm = _chosen.rms_norm
gelu_tanh = _chosen.gelu_tanh
remat = _chosen.remat
custom_gradient = _chosen.custom_gradient
without_gradient = _chosen.without_gradient
jit = _chosen.jit
jit_steps = _chosen.jit_steps
branches_on_host = _chosen.branches_on_host
specializes_decoding = _chosen.specializes_decoding
fx_trace = _chosen.fx_trace
to_host = _chosen.to_host
to_device = _chosen.to_device
compiles_regions = _chosen.compiles_regions
compile_regions = _chosen.compile_regions
constant = _chosen.constant
prefetch = _chosen.prefetch
synchronize = _chosen.synchronize
set_precision = _chosen.set_precision
limit_memory = _chosen.limit_memory
device_memory = _chosen.device_memory
device = _chosen.device
peak_memory = _chosen.peak_memory
device_scope = _chosen.device_scope
optimizer_class = _chosen.optimizer_class
JIT_TRAINING = _chosen.JIT_TRAINING
sync_model_state = _chosen.sync_model_state
read_optimizer_var = _chosen.read_optimizer_var
assign_optimizer_var = _chosen.assign_optimizer_var
distribution = _chosen.distribution
processes = _chosen.processes

if fraction := memory_fraction():  # before the first tensor
    limit_memory(fraction)
