"""Reads the HDF5 weight files of Keras 3, and of keras-applications on Keras 2.

The HDF5 library lists a file's tensors in a separate process, with limits of time and
memory; the data are read here, block by block. Keras' own loader is not used, since it
follows links to any file.

In keras-applications a grouped convolution is a depthwise convolution with several
outputs per channel, and a sum within each group. The sum is a `Lambda` layer, or in
later code a 1x1 convolution with a constant kernel of zeros and ones.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from resnext_keras.weights.formats import hdf5_index
from resnext_keras.weights.tensors import (
    BFLOAT16,
    LazyTensor,
    LazyTensors,
    WeightsError,
    lazy_block,
)

# Python without the folders that `site` adds and without the PYTHON* variables. The
# process imports from the standard library and from FOLDERS only.
PYTHON = ("-I", "-S", "-c")
START = (
    "import sys; sys.path += sys.argv[2:]; import hdf5_index; "
    "hdf5_index.main(sys.argv[1])"
)
FOLDERS = [
    str(Path(np.__file__).parents[1]),
    str(Path(h5py.__file__).parents[1]),
    str(Path(hdf5_index.__file__).parent),
]

HEADS = {"probs": "predictions"}

# The epsilon of batch norm is 1.001e-5 in keras-applications and 1e-5 here. Adding the
# difference to the variance gives the same outputs, also after saving again.
MORE_EPSILON = 1e-8


@contextlib.contextmanager
def open_keras_h5(path: Path) -> Iterator[LazyTensors]:
    """Context manager: opens an HDF5 weight file; refuses links to other files."""
    index = _index(os.fspath(path))
    if "error" in index:
        raise WeightsError(index["error"])
    with path.open("rb") as file:
        stored = _once(
            (
                (f"{layer}/{variable}", _stored(file, path, shape, dtype, offset))
                for layer, variable, shape, dtype, offset in index["tensors"]
            ),
            path,
        )
        if index["generation"] == 2:
            stored = _once(_keras_applications_tensors(stored, path), path)
        yield stored


def _once(tensors: Iterable[tuple[str, LazyTensor]], path: Path) -> LazyTensors:
    """The tensors by name; an error if a name comes twice."""
    stored = {}
    for name, tensor in tensors:
        if name in stored:
            raise WeightsError(
                f"Expected {name!r:.100} once in {path}, found it twice."
            )
        stored[name] = tensor
    return stored


def _index(path: str) -> dict:
    """The result of `hdf5_index.index`, computed in a separate process."""
    # A frozen program, or one that embeds Python, has no Python to start. There HDF5
    # runs in this process, without limits.
    program = os.path.basename(sys.executable or "").lower()
    if getattr(sys, "frozen", False) or "python" not in program:
        return hdf5_index.index(path)
    try:
        done = subprocess.run(
            [sys.executable, *PYTHON, START, path, *FOLDERS],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=hdf5_index.SECONDS,
            env=_environment(),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except subprocess.TimeoutExpired as error:
        raise WeightsError(
            "Expected an intact Keras HDF5 weight file, found a damaged one: the HDF5 "
            f"library had not finished after {error.timeout} s: {path}"
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"Expected to start {sys.executable} to read {path}, found: {error}"
        ) from error
    try:
        return json.loads(done.stdout)
    except ValueError:
        *_, last = done.stderr.decode(errors="replace").splitlines() or ["crashed"]
        raise WeightsError(
            "Expected an intact Keras HDF5 weight file, found a damaged one: the HDF5 "
            f"library failed ({done.returncode}, {last:.300}): {path}"
        ) from None


def _environment() -> dict[str, str]:
    """The environment without variables that make HDF5 load plug-ins or drivers."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("HDF5_")
    }
    return environment | {
        "HDF5_PLUGIN_PRELOAD": "::",  # none
        "HDF5_USE_FILE_LOCKING": "FALSE",  # not every file system has locks
        "OPENBLAS_NUM_THREADS": "1",  # threads take memory and are not needed
    }


def _stored(
    file: BinaryIO, path: Path, shape: list[int], dtype: str, offset: int
) -> LazyTensor:
    """A tensor of the file; an error if the file is too short."""
    dtype = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
    end = offset + math.prod(shape) * dtype.itemsize
    size = os.fstat(file.fileno()).st_size
    if end > size:
        raise WeightsError(
            f"Expected at least {end} bytes in {path}, found {size}: the file is "
            "truncated or damaged."
        )
    return lazy_block(file, path, offset, dtype, tuple(shape))


def _keras_applications_tensors(
    state: LazyTensors, path: Path
) -> Iterator[tuple[str, LazyTensor]]:
    """The tensors of a file of keras-applications by this package's names.

    Kernels of grouped convolutions replace the depthwise kernels, such as
    `conv2_block1_2_conv/depthwise_kernel`, and the constant kernels of the sums.
    """
    if not any(name.endswith("/depthwise_kernel") for name in state):
        raise WeightsError(
            "Expected a file in the HDF5 format of Keras 2 to be a ResNeXt of "
            f"keras-applications; {path} has no depthwise kernel. If it is of a model "
            "of this package, load it into that model and save it with Keras 3: "
            "model.save_weights('model.weights.h5')."
        )
    sums = {name: state[name] for name in state if name.endswith("_gconv/kernel")}
    for name, tensor in state.items():
        layer, _, variable = name.rpartition("/")
        if variable == "depthwise_kernel":
            total = sums.pop(f"{layer.removesuffix('conv')}gconv/kernel", None)
            yield f"{layer}/kernel", _grouped(name, tensor, total)
        elif variable == "moving_variance":
            yield name, _with_more_epsilon(tensor)
        elif not name.endswith("_gconv/kernel"):
            yield f"{HEADS.get(layer, layer)}/{variable}", tensor
    if sums:
        raise WeightsError(
            f"Expected a depthwise convolution before each sum in {path}, found none "
            f"before {next(iter(sums))!r:.100}."
        )


def _grouped(name: str, depthwise: LazyTensor, total: LazyTensor | None) -> LazyTensor:
    """The kernel of a grouped convolution, from a depthwise one and a sum.

    The depthwise kernel is (height, width, filters, channels of a group): output m of
    input channel i goes to filter m of the group of i.
    """
    shape, path = depthwise.shape, depthwise.path
    if len(shape) != 4 or not shape[3] or shape[2] % shape[3]:
        raise WeightsError(
            f"Expected {name!r:.100} of {path} to be (height, width, filters, channels "
            f"of a group), found {shape}."
        )
    height, width, filters, channels = shape
    if total is not None and total.shape != (1, 1, filters * channels, filters):
        raise WeightsError(
            f"Expected the sum after {name!r:.100} of {path} to be of shape "
            f"{(1, 1, filters * channels, filters)}, found {total.shape}."
        )

    def read() -> np.ndarray:
        if total is not None and not _sums_groups(total.read(), channels):
            raise WeightsError(
                f"Expected a kernel of zeros and ones that sums the groups after "
                f"{name!r:.100} of {path}, found other numbers."
            )
        groups = depthwise.read().reshape(height, width, -1, channels, channels)
        return groups.transpose(0, 1, 3, 2, 4).reshape(height, width, channels, filters)

    return LazyTensor((height, width, channels, filters), depthwise.dtype, path, read)


def _sums_groups(kernel: np.ndarray, channels: int) -> bool:
    """Whether a 1x1 kernel sends output m of each channel to filter m of its group."""
    rows = np.arange(kernel.shape[2])  # all outputs of channel 0, then of channel 1...
    filters = rows // channels**2 * channels + rows % channels
    ones = kernel[0, 0, rows, filters]
    return bool((ones == 1).all()) and np.count_nonzero(kernel) == rows.size


def _with_more_epsilon(variance: LazyTensor) -> LazyTensor:
    def read() -> np.ndarray:
        data = variance.read()
        return data + data.dtype.type(MORE_EPSILON)

    return LazyTensor(variance.shape, variance.dtype, variance.path, read)
