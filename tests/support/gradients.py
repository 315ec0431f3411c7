"""Outputs and gradients of a function on whatever backend Keras runs."""

import keras


def output_and_gradients(function, *arrays):
    """The output, and the gradients of an uneven sum of it, as NumPy arrays."""
    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]

    def total_and_output(*tensors):
        y = function(*tensors)
        return keras.ops.sum(keras.ops.sin(0.3 * y)), y

    differentiate = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    y, gradients = differentiate[keras.config.backend()](total_and_output, tensors)
    return [keras.ops.convert_to_numpy(tensor) for tensor in (y, *gradients)]


def _tensorflow(total_and_output, tensors):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        total, y = total_and_output(*tensors)
    return y, tape.gradient(total, tensors)


def _jax(total_and_output, tensors):
    import jax

    numbers = tuple(range(len(tensors)))
    differentiate = jax.value_and_grad(total_and_output, numbers, has_aux=True)
    (_, y), gradients = differentiate(*tensors)
    return y, gradients


def _torch(total_and_output, tensors):
    import torch

    tensors = [tensor.detach().requires_grad_() for tensor in tensors]
    total, y = total_and_output(*tensors)
    return y, torch.autograd.grad(total, tensors)
