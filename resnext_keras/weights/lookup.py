"""Until callers resolve once: the old second way to find weights."""

from resnext_keras.weights.checkpoint import resolve, weights_preprocessing
from resnext_keras.weights.registry import default_set, list_weights
from resnext_keras.weights.tensors import WeightsError

__all__ = [
    "default_set",
    "find_set",
    "find_weights",
    "list_weights",
    "weights_preprocessing",
]


def find_weights(weights, architecture=None):  # until callers resolve once
    """The row of a weight set, or the path of a file."""
    from resnext_keras.weights.checkpoint import _find

    return _find(weights, architecture)


def find_set(name):  # until callers resolve once
    """The row of a weight set."""
    if resolve(name).weight_set is None:
        raise WeightsError(
            f"Expected the name of a weight set, found a file. Received: name={name!r}"
        )
    return resolve(name).weight_set
