"""Puts stored tensors into a model: all of them, or none."""

import numpy as np

from resnext_keras.weights.stored import StoredTensors, WeightsError


def assign(model, tensors: StoredTensors) -> None:
    """Sets each variable of a model, once, from the tensor of its name.

    Args:
        model: A `keras.Model` of this package.
        tensors: A tensor for each of its variables, by `"{layer}/{variable}"`,
            from `open_weights`.

    Raises:
        WeightsError: A tensor has values that are not finite; the model is
            then as it was.
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
    values = {name: tensor.read() for name, tensor in tensors.items()}
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise WeightsError(
                f"Expected finite numbers, found NaN or infinity in {name}; nothing "
                "was loaded."
            )
    for name, variable in variables.items():
        variable.assign(values[name])
