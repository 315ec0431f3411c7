"""Reads the `state_dict` of a torchvision or timm ResNeXt from torch's own files.

Neither torch nor Python's pickle is used, and nothing in a file is executed: see
`torch_pickle`. A tensor is read from the file when it is asked for, and no
storage is ever in memory but for the part that a tensor spans.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from resnext_keras.weights.formats.torch_legacy import read_legacy
from resnext_keras.weights.formats.torch_names import keras_tensors
from resnext_keras.weights.formats.torch_pickle import MAX_BYTES
from resnext_keras.weights.formats.torch_tensors import Contents, Tensor
from resnext_keras.weights.formats.torch_zip import read_zip
from resnext_keras.weights.tensors import (
    LazyTensor,
    LazyTensors,
    WeightsError,
    lazy_block,
)

# Where training scripts keep the state, the average of several first, as in
# timm's `load_state_dict`.
STATES = ("state_dict_ema", "model_ema", "state_dict", "model")


@contextlib.contextmanager
def open_torch_file(path: Path) -> Iterator[LazyTensors]:
    """Opens a file that `torch.save` wrote; yields by `"{layer}/{variable}"`.

    Raises:
        WeightsError: The file is no such file, is damaged, asks for code to be
            run, or holds tensors that are not a ResNeXt's.
    """
    with contextlib.ExitStack() as stack:
        with _damage_named(path):
            file = stack.enter_context(_BoundedReader(path.open("rb", buffering=0)))
            contents = (read_zip if file.peek(2)[:2] == b"PK" else read_legacy)(file)
        state = {
            key: _stored(tensor, contents, file, path)
            for key, tensor in _state(contents.root, path).items()
        }
        yield keras_tensors(state, path)


class _BoundedReader(io.BufferedReader):
    """A file of which no call reads much, whatever size a file's header claims."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_BYTES:
            size = MAX_BYTES
        return super().read(size)


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turns whatever is raised at a damaged file into the one promised error."""
    try:
        yield
    except Exception as error:  # zipfile raises BadZipFile, NotImplementedError, ...
        raise WeightsError(
            "Expected a state_dict that torch.save wrote, found something else or a "
            f"damaged file: {path} ({error!s:.400})"
        ) from error


def _state(root: object, path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name: all that it holds, or what it calls its state."""
    state = root
    if type(root) is dict:
        nested = (root[name] for name in STATES if type(root.get(name)) is dict)
        state = next(nested, root)
    if type(state) is not dict:
        raise WeightsError(
            f"Expected a state_dict in {path}, found an object of type "
            f"{type(state).__name__}."
        )
    for key, value in state.items():
        if type(key) is not str or type(value) is not Tensor:
            raise WeightsError(
                f"Expected tensors alone in the state_dict of {path}, found "
                f"{key!r:.100} of type {type(value).__name__}. If the state is "
                "elsewhere, save that alone: torch.save(model.state_dict(), path)."
            )
    return state


def _stored(
    tensor: Tensor, contents: Contents, file: BinaryIO, path: Path
) -> LazyTensor:
    """A tensor that is read from its place in the file, in one piece."""
    storage = tensor.storage
    size = storage.dtype.itemsize
    block = lazy_block(
        file,
        path,
        contents.offsets[storage.key] + tensor.offset * size,
        storage.dtype,
        (tensor.span,),
    )
    # Along an axis of length 1, and of no numbers at all, any stride may be saved.
    strides = tuple(
        stride * size if length > 1 and tensor.span else 0
        for length, stride in zip(tensor.shape, tensor.strides, strict=True)
    )

    def read() -> np.ndarray:
        with _damage_named(path):
            contents.check(storage.key)
        return np.ndarray(tensor.shape, storage.dtype, block.read(), strides=strides)

    return LazyTensor(tensor.shape, storage.dtype, path, read)
