"""Weights of a network: which sets there are, how files are got, read and checked."""

from resnext_keras.weights.assign import assign
from resnext_keras.weights.download import fetch, local_path
from resnext_keras.weights.files import identify, open_weights
from resnext_keras.weights.formats.write_safetensors import write_torch_safetensors
from resnext_keras.weights.lookup import (
    default_set,
    find_set,
    find_weights,
    list_weights,
    weights_preprocessing,
)
from resnext_keras.weights.registry import WEIGHT_SETS, Evaluation, WeightSet
from resnext_keras.weights.runs import trained
from resnext_keras.weights.stored import WeightsError

__all__ = [
    "WEIGHT_SETS",
    "Evaluation",
    "WeightSet",
    "WeightsError",
    "assign",
    "default_set",
    "fetch",
    "find_set",
    "find_weights",
    "identify",
    "list_weights",
    "local_path",
    "open_weights",
    "trained",
    "weights_preprocessing",
    "write_torch_safetensors",
]
