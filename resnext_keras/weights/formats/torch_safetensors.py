"""Reads the `state_dict` of a torchvision or timm ResNeXt from safetensors."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from resnext_keras.weights.formats.torch_names import keras_tensors
from resnext_keras.weights.stored import (
    BFLOAT16,
    StoredTensors,
    WeightsError,
    stored_block,
)

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
def open_torch_safetensors(path: Path) -> Iterator[StoredTensors]:
    """Opens a `.safetensors` file; yields its tensors by `"{layer}/{variable}"`.

    Raises:
        WeightsError: The file is no such file, is damaged, or holds tensors
            that are not a ResNeXt's.
    """
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
            if entry["dtype"] not in DTYPES:
                raise WeightsError(
                    f"Expected {key!r:.100} of {path} to be one of "
                    f"{', '.join(DTYPES)}, found {entry['dtype']}."
                )
            state[key] = stored_block(
                file,
                path,
                8 + header_size + entry["data_offsets"][0],
                DTYPES[entry["dtype"]],
                tuple(entry["shape"]),
            )
        yield keras_tensors(state, path)


def _parsed(header: bytes, path: Path) -> dict:
    """The header, in which no name may stand twice: safetensors would take one."""

    def check(pairs):
        if len(dict(pairs)) < len(pairs):
            raise WeightsError(f"Expected each name once in the header of {path}.")
        return dict(pairs)

    return json.loads(header, object_pairs_hook=check)
