"""Gradients of a scalar function of arrays, by whichever backend runs."""

import keras
from keras import ops


def gradients_of(function, *arrays):
    """The gradients of `function(*tensors)` with respect to each array, as NumPy arrays."""
    name = keras.backend.backend()
    if name == "jax":
        import jax

        found = jax.grad(function, argnums=tuple(range(len(arrays))))(*map(ops.array, arrays))
    elif name == "tensorflow":
        import tensorflow as tf

        tensors = [tf.constant(array) for array in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        found = tape.gradient(value, tensors)
    else:
        import torch

        tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
        found = torch.autograd.grad(function(*tensors), tensors)
    return [ops.convert_to_numpy(gradient) for gradient in found]
