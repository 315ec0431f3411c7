"""Writes a network's weights as torch's `state_dict` in a safetensors file."""

import json
import math
from pathlib import Path

import numpy as np

from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.weights.formats.torch_names import torch_tensors
from resnext_keras.weights.tensors import BFLOAT16, LazyTensors, finite_array

DTYPES = {
    np.dtype("f2"): "F16",
    BFLOAT16: "BF16",
    np.dtype("f4"): "F32",
    np.dtype("f8"): "F64",
}


def write_torch_safetensors(
    path: Path, tensors: LazyTensors, spec: ResNeXtSpec
) -> None:
    """Writes tensors by torch's names, in its layout and in the types they have.

    The file is what torch's `load_state_dict` takes. It is written tensor by
    tensor: the functions of safetensors would have all of them in memory
    twice, and mix up those that do not lie in one block
    (https://github.com/huggingface/safetensors/issues/825).

    Args:
        path: The file to be written.
        tensors: All variables of a network, from `open_weights`.
        spec: The network's spec.

    Raises:
        WeightsError: A number is not finite; the file is then not whole.
    """
    state = torch_tensors(tensors, spec)
    # Those who load the files of others look for this entry.
    header = {"__metadata__": {"format": "pt", "architecture": spec.name}}
    end = 0
    for key, tensor in state.items():
        start, end = end, end + math.prod(tensor.shape) * tensor.dtype.itemsize
        header[key] = {
            "dtype": DTYPES[tensor.dtype.newbyteorder("=")],
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key, tensor in state.items():
            array = finite_array(key, tensor, tensor.dtype.newbyteorder("<"))
            np.ascontiguousarray(array).tofile(file)
