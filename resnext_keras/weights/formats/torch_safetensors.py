"""Reads the `state_dict` of a torchvision or timm ResNeXt from safetensors."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from resnext_keras.weights.formats.torch_names import keras_tensors
from resnext_keras.weights.tensors import (
    BFLOAT16,
    LazyTensors,
    WeightsError,
    lazy_block,
)

# The longest of the family, with 1,300 tensors, needs 0.2 MB.
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


@contextlib.contextmanager
def open_torch_safetensors(path: Path) -> Iterator[LazyTensors]:
    """Opens a `.safetensors` file; yields its tensors by `"{layer}/{variable}"`.

    Raises:
        WeightsError: The file is no such file, is damaged, or holds tensors
            that are not a ResNeXt's.
    """
    _check_size(path)
    try:
        # The library holds sizes and offsets against each other and the file.
        safe_open(path, framework="numpy").__exit__(None, None, None)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"Expected a safetensors file, found something else or a damaged file: "
            f"{path} ({error})"
        ) from error
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        header = _parsed(file.read(header_size), path)
        header.pop("__metadata__", None)
        state = {}
        for key, entry in header.items():
            # The library takes other spellings of an entry, too.
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


def _check_size(path: Path) -> None:
    """Raises at a header that is long enough to take much memory when parsed."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise WeightsError(
            f"Expected a safetensors file, found one that cannot be read: {path} "
            f"({error.strerror})"
        ) from error
    if size > MAX_HEADER:
        raise WeightsError(
            f"Expected a safetensors file with a header of at most {MAX_HEADER} bytes, "
            f"found something else or a damaged file: {path}"
        )


def _parsed(header: bytes, path: Path) -> dict:
    """The header, in which no name may stand twice: safetensors would take one."""

    def check(pairs):
        if len(dict(pairs)) < len(pairs):
            raise WeightsError(f"Expected each name once in the header of {path}.")
        return dict(pairs)

    return json.loads(header, object_pairs_hook=check)
