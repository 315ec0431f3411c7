"""Weights of a network: which sets there are, how files are read and checked."""

from resnext_keras.weights.assign import assign
from resnext_keras.weights.files import identify, open_weights
from resnext_keras.weights.registry import (
    WEIGHT_SETS,
    WeightSet,
    find_weights,
    list_weights,
)
from resnext_keras.weights.stored import WeightsError
from resnext_keras.weights.write_safetensors import write_torch_safetensors

__all__ = [
    "WEIGHT_SETS",
    "WeightSet",
    "WeightsError",
    "assign",
    "find_weights",
    "identify",
    "list_weights",
    "open_weights",
    "write_torch_safetensors",
]
