"""Puts stored tensors into a model: all of them, or none."""

import numpy as np

from resnext_keras.weights.stored import StoredTensor, StoredTensors, WeightsError


def assign(model, tensors: StoredTensors) -> None:
    """Sets each variable of a model, once, from the tensor of its name.

    Args:
        model: A `keras.Model` of this package.
        tensors: A tensor for each variable to be set, by
            `"{layer}/{variable}"`, from `open_weights`.

    Raises:
        WeightsError: A tensor has values that are not finite, or too large for
            the variable's dtype; the model is then as it was.
    """
    variables = {
        f"{layer.name}/{variable.name}": variable
        for layer in model.layers
        for variable in layer.weights
        if f"{layer.name}/{variable.name}" in tensors
    }
    if variables.keys() != tensors.keys():
        unknown = sorted(tensors.keys() - variables.keys())
        raise WeightsError(f"The model {model.name!r} has no {', '.join(unknown)}.")
    # Each tensor is read twice, once to check it: so there is only one at a time
    # in memory, and a bad one is found before any variable has changed.
    for name, variable in variables.items():
        finite_array(name, tensors[name], variable.dtype)
    for name, variable in variables.items():
        variable.assign(finite_array(name, tensors[name], variable.dtype))


def finite_array(name: str, tensor: StoredTensor, dtype) -> np.ndarray:
    """Reads a tensor.

    Args:
        name: Its name, for the error.
        tensor: The tensor, of an open file.
        dtype: A floating dtype, by its name or NumPy's.

    Raises:
        WeightsError: A number is not finite, or too large for `dtype`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        array = tensor.read().astype(dtype, copy=False)
    if not np.isfinite(array).all():
        raise WeightsError(
            f"Expected finite numbers within the range of {dtype} in {name}, found "
            f"others in {tensor.path}; nothing was loaded."
        )
    return array
