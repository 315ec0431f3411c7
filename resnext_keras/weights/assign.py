"""Puts stored tensors into a model: all of them, or none."""

from resnext_keras.weights.tensors import LazyTensors, WeightsError, finite_array


def assign(model, tensors: LazyTensors) -> None:
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
