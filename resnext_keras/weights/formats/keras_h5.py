"""Reads the HDF5 weight files of Keras 3, and of keras-applications on Keras 2.

The HDF5 library lists a file's tensors in a process of its own, within limits
of time and memory; what it lists is read here, block by block. Keras' loader is
not used, since it follows whatever a file points at.
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
from resnext_keras.weights.formats.keras_applications_h5 import resnext_tensors
from resnext_keras.weights.tensors import (
    BFLOAT16,
    LazyTensor,
    LazyTensors,
    WeightsError,
    lazy_block,
)

# Python without the folders that `site` adds, and without the PYTHON* variables:
# the process knows the standard library, then the folders that are handed over.
PYTHON = ("-I", "-S", "-c")
START = (
    "import sys; sys.path += sys.argv[2:]; import hdf5_index; "
    "hdf5_index.main(sys.argv[1])"
)
FOLDERS = list(
    dict.fromkeys(
        [
            str(Path(np.__file__).parents[1]),
            str(Path(h5py.__file__).parents[1]),
            str(Path(hdf5_index.__file__).parent),
        ]
    )
)


@contextlib.contextmanager
def open_keras_h5(path: Path) -> Iterator[LazyTensors]:
    """Opens an HDF5 weight file; yields its tensors by `"{layer}/{variable}"`.

    Raises:
        WeightsError: The file is no such file, is damaged, or holds a link or
            data outside itself.
    """
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
            stored = _once(resnext_tensors(stored, path), path)
        yield stored


def _once(tensors: Iterable[tuple[str, LazyTensor]], path: Path) -> LazyTensors:
    """The tensors by name, each of which may come once."""
    stored = {}
    for name, tensor in tensors:
        if name in stored:
            raise WeightsError(
                f"Expected {name!r:.100} once in {path}, found it twice."
            )
        stored[name] = tensor
    return stored


def _index(path: str) -> dict:
    """What `hdf5_index.index` says of a file, from a process of its own."""
    # Frozen programs have no Python to start, nor have hosts that embed one, such
    # as uWSGI, whose `sys.executable` is the host. HDF5 runs here then, unlimited.
    host = os.path.basename(sys.executable or "").lower()
    if getattr(sys, "frozen", False) or not ("python" in host or "pypy" in host):
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
            "Expected an intact Keras HDF5 weight file, found a damaged one, with "
            f"which the HDF5 library was not done after {error.timeout} s: {path}"
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"Expected to start {sys.executable} to look into {path}, found: {error}"
        ) from error
    try:
        return json.loads(done.stdout)
    except ValueError:
        *_, last = done.stderr.decode(errors="replace").splitlines() or ["crashed"]
        raise WeightsError(
            "Expected an intact Keras HDF5 weight file, found a damaged one, at which "
            f"the HDF5 library broke off ({done.returncode}, {last:.300}): {path}"
        ) from None


def _environment() -> dict[str, str]:
    """The environment without what makes HDF5 load plug-ins or other drivers."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("HDF5_")
    }
    return kept | {
        "HDF5_PLUGIN_PRELOAD": "::",  # none
        "HDF5_USE_FILE_LOCKING": "FALSE",  # not every file system has locks
        "OPENBLAS_NUM_THREADS": "1",  # threads take memory, and there is no algebra
    }


def _stored(
    file: BinaryIO, path: Path, shape: list[int], dtype: str, offset: int
) -> LazyTensor:
    """A tensor where the list has it, if the file is long enough."""
    dtype = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
    end = offset + math.prod(shape) * dtype.itemsize
    size = os.fstat(file.fileno()).st_size
    if end > size:
        raise WeightsError(
            f"Expected at least {end} bytes in {path}, found {size}: the file has been "
            "cut off or damaged."
        )
    return lazy_block(file, path, offset, dtype, tuple(shape))
