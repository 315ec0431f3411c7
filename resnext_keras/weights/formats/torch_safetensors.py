"""Reads and writes `.safetensors` files with the `state_dict` of a torch ResNeXt."""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.weights.formats.torch_names import keras_tensors, torch_tensors
from resnext_keras.weights.tensors import (
    BFLOAT16,
    LazyTensor,
    LazyTensors,
    WeightsError,
    finite_array,
    lazy_block,
)

# The largest network, with 1,300 tensors, needs 0.2 MB.
MAX_HEADER = 2**22

DTYPES = {
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "BOOL": np.dtype("?"),
} | {
    f"{kind.upper()}{8 * size}": np.dtype(f"<{kind}{size}")
    for kind in "iu"
    for size in (1, 2, 4, 8)
}

NAMES = {dtype: name for name, dtype in DTYPES.items()}


@contextlib.contextmanager
def open_torch_safetensors(path: Path) -> Iterator[LazyTensors]:
    """Context manager: opens a `.safetensors` file."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            header_size = int.from_bytes(file.read(8), "little")
            if header_size > MAX_HEADER:  # too large to be parsed safely
                raise ValueError(f"not with a header of at most {MAX_HEADER} bytes")
            # The library checks sizes and offsets against each other and the file.
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightsError(
                "Expected a safetensors file, found something else or a damaged file: "
                f"{path} ({error})"
            ) from error
        header = _parsed(file.read(header_size), path)
        header.pop("__metadata__", None)
        state = {}
        for key, entry in header.items():
            # The library also accepts entries in other forms.
            dtype = entry.get("dtype") if isinstance(entry, dict) else None
            if not isinstance(dtype, str) or dtype not in DTYPES:
                raise WeightsError(
                    f"Expected {key!r:.100} of {path} to be one of "
                    f"{', '.join(DTYPES)}, found {dtype!r:.100}."
                )
            state[key] = lazy_block(
                file,
                path,
                8 + header_size + entry["data_offsets"][0],
                DTYPES[dtype],
                tuple(entry["shape"]),
            )
        yield keras_tensors(state, path)


def _parsed(header: bytes, path: Path) -> dict:
    """The header as a dict; an error if a name comes twice, unlike in safetensors."""

    def check(pairs):
        if len(dict(pairs)) < len(pairs):
            raise WeightsError(f"Expected each name once in the header of {path}.")
        return dict(pairs)

    return json.loads(header, object_pairs_hook=check)


def write_torch_safetensors(
    path: Path, tensors: LazyTensors, spec: ResNeXtSpec
) -> None:
    """Writes tensors for torch's `load_state_dict`, without changing their dtypes.

    The file is written tensor by tensor: the functions of safetensors would hold all
    tensors in memory twice, and write non-contiguous ones in the wrong order
    (https://github.com/huggingface/safetensors/issues/825).

    Args:
        path: The file to be written.
        tensors: All variables of a network, from `Checkpoint.open`.
        spec: The network's spec.

    Raises:
        WeightsError: A number is not finite; the file is then incomplete.
    """
    state = torch_tensors(tensors, spec)
    # Batch norm's counters of batches, which transformers would report as missing.
    counter = LazyTensor((), np.dtype("<i8"), path, lambda: np.zeros((), "<i8"))
    state |= {
        key.replace("running_var", "num_batches_tracked"): counter
        for key in state
        if key.endswith("running_var")
    }
    # Other loaders require the entry "format".
    header = {"__metadata__": {"format": "pt", "architecture": spec.name}}
    end = 0
    for key, tensor in state.items():
        start, end = end, end + math.prod(tensor.shape) * tensor.dtype.itemsize
        header[key] = {
            "dtype": NAMES[tensor.dtype.newbyteorder("<")],
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data have to begin at a multiple of 8
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key, tensor in state.items():
            array = finite_array(key, tensor, tensor.dtype.newbyteorder("<"))
            np.ascontiguousarray(array).tofile(file)
