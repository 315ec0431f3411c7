"""Puts stored tensors into a model: all of them, or none."""

import numpy as np

from resnext_keras.weights.stored import StoredTensor, StoredTensors, WeightsError


def assign(model, tensors: StoredTensors) -> None:
    """Sets each variable of a model, once, from the tensor of its name.

    Args:
        model: A `keras.Model` of this package.
        tensors: A tensor for each of its variables, by `"{layer}/{variable}"`,
            from `open_weights`.

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
        if not np.isfinite(_value(tensors[name], variable.dtype)).all():
            raise WeightsError(
                f"Expected finite numbers within the range of {variable.dtype} in "
                f"{name}, found others in {tensors[name].path}; nothing was loaded."
            )
    for name, variable in variables.items():
        variable.assign(_value(tensors[name], variable.dtype))


def _value(tensor: StoredTensor, dtype: str) -> np.ndarray:
    """The data in a variable's dtype; what is too large becomes infinity."""
    with np.errstate(over="ignore", invalid="ignore"):
        return tensor.read().astype(dtype, copy=False)
