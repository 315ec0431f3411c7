"""Reads the `state_dict` of a torchvision or timm ResNeXt from safetensors."""

import contextlib
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from resnext_keras.weights.stored import StoredTensor, StoredTensors, WeightsError

# The count of batches that torch's batch norm has seen: no Keras counterpart.
IGNORED = re.compile(r".*\.num_batches_tracked")

# Layers in torch's names and in those of keras.applications. Torch counts
# stages from 1 and blocks from 0; the projection is Keras' convolution 0.
BLOCK = r"layer([1-9])\.(0|[1-9][0-9]?)\."
LAYERS = (
    (re.compile(r"conv1"), "conv1_conv"),
    (re.compile(r"bn1"), "conv1_bn"),
    (re.compile(BLOCK + r"conv([1-3])"), "conv{}_block{}_{}_conv"),
    (re.compile(BLOCK + r"bn([1-3])"), "conv{}_block{}_{}_bn"),
    (re.compile(BLOCK + r"downsample\.0"), "conv{}_block{}_0_conv"),
    (re.compile(BLOCK + r"downsample\.1"), "conv{}_block{}_0_bn"),
    (re.compile(r"fc"), "predictions"),
)

# A layer's variables. Kernels lose their place at the end: torch's are
# (filters, channels of one group, height, width) and (outputs, inputs).
BN_VARIABLES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
VARIABLES = {"weight": "kernel", "bias": "bias"}
KERNEL_AXES = {4: (2, 3, 1, 0), 2: (1, 0)}

DTYPES = ("F32", "F64", "F16", "BF16")


@contextlib.contextmanager
def open_torch_safetensors(path: Path) -> Iterator[StoredTensors]:
    """Opens a `.safetensors` file; yields its tensors by `"{layer}/{variable}"`.

    Raises:
        WeightsError: The file is no such file, is damaged, or holds tensors
            that are not a ResNeXt's.
    """
    try:
        file = safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"Expected a safetensors file, found something else or a damaged file: "
            f"{path} ({error})"
        ) from error
    with file:
        _check_names(path)
        stored = {}
        for key in file.keys():  # noqa: SIM118 - the file is no mapping
            if not IGNORED.fullmatch(key):
                name = _keras_name(key, path)
                if name in stored:
                    raise WeightsError(
                        f"Expected {name} once in {path}, found it twice."
                    )
                stored[name] = _stored_tensor(file, key, name, path)
        yield stored


def _check_names(path: Path) -> None:
    """Raises if a name stands twice in the header, of which safetensors takes one."""
    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))

    def check(pairs):
        if len(dict(pairs)) < len(pairs):
            raise WeightsError(f"Expected each name once in the header of {path}.")

    json.loads(header, object_pairs_hook=check, parse_int=str)


def _keras_name(key: str, path: Path) -> str:
    """`"layer2.0.conv3.weight"` is `"conv3_block1_3_conv/kernel"`."""
    layer_key, _, variable_key = key.rpartition(".")
    for pattern, name in LAYERS:
        if match := pattern.fullmatch(layer_key):
            counts = [int(number) for number in match.groups()]
            if counts:
                counts[:2] = counts[0] + 1, counts[1] + 1
            layer = name.format(*counts)
            variables = BN_VARIABLES if layer.endswith("_bn") else VARIABLES
            if variable_key in variables:
                return f"{layer}/{variables[variable_key]}"
    raise WeightsError(
        f"Expected the state_dict of a torchvision or timm ResNeXt in {path}; found "
        f"a tensor {key!r:.100}."
    )


def _stored_tensor(file, key: str, name: str, path: Path) -> StoredTensor:
    stored = file.get_slice(key)
    if stored.get_dtype() not in DTYPES:
        raise WeightsError(
            f"Expected {key!r} of {path} to be one of {', '.join(DTYPES)}, found "
            f"{stored.get_dtype()}."
        )
    shape = tuple(stored.get_shape())
    read = functools.partial(file.get_tensor, key)
    axes = KERNEL_AXES.get(len(shape)) if name.endswith("/kernel") else None
    if axes is None:
        return StoredTensor(shape, path, read)
    kernel_shape = tuple(shape[axis] for axis in axes)
    return StoredTensor(kernel_shape, path, lambda: np.transpose(read(), axes))
