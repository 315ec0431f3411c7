"""Tensors and storages as torch's pickles describe them: where numbers lie.

`CONSTRUCTORS` and `DTYPES` hold what the names in a pickle stand for. None of it
does more than to describe, whatever arguments a file passes.

Source: torch's `serialization.py` and `_utils.py`.
"""

import math
import pickle
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from resnext_keras.weights.tensors import BFLOAT16

# NumPy before 2.0 has no more.
MAX_AXES = 32

# Numbers of a tensor that repeats those of its storage: enough for a vector of
# equal numbers, and no memory to speak of.
MAX_REPEATED = 2**20

DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": BFLOAT16,
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class Storage(NamedTuple):
    """Numbers of one type that lie in the file under a key."""

    key: str
    dtype: np.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return self.numel * self.dtype.itemsize


class Part(NamedTuple):
    """A storage, or the part of one that older files give a key of its own."""

    storage: Storage
    start: int
    numel: int


class Tensor(NamedTuple):
    """A view of a storage; its offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """How many numbers there are from its first to its last."""
        if 0 in self.shape:
            return 0
        pairs = zip(self.shape, self.strides, strict=True)
        return 1 + sum((size - 1) * stride for size, stride in pairs)


class Contents(NamedTuple):
    """What a file holds: the object, and where its storages' numbers begin."""

    root: object
    offsets: dict[str, int]
    check: Callable[[str], None] = lambda key: None  # raises at a damaged storage


def part_of_storage(reference: object) -> Part:
    """What a persistent id stands for: `("storage", type, key, device, numel)`.

    Files of the older format have `(key, start, numel)` or None behind these.
    """
    if type(reference) is not tuple or len(reference) not in (5, 6):
        raise TypeError("no reference")
    kind, dtype, key, _, numel, view = (*reference, None)[:6]
    if type(kind) is not str or kind != "storage" or type(key) is not str:
        raise TypeError("no storage")
    if not isinstance(dtype, np.dtype):
        raise TypeError("no type of a storage")
    storage = Storage(key, dtype, _count(numel))
    start, size = (0, numel) if view is None else view[1:]
    if _count(start) + _count(size) > numel:
        raise pickle.UnpicklingError(f"a part that exceeds its storage {key!r:.100}")
    return Part(storage, start, size)


def fill(target: dict, pairs: Iterable) -> None:
    """Adds pairs to a dictionary, which has to have none of their keys."""
    for key, value in pairs:
        # A tuple may be nested too deeply to be hashed, and large numbers may be
        # chosen to have one hash.
        if type(key) is not str and not (type(key) is int and abs(key) < 2**60):
            raise TypeError("no key")
        if key in target:
            raise pickle.UnpicklingError(f"the name {key!r:.100} twice")
        target[key] = value


def _ordered_dict(pairs: Iterable = ()) -> dict:
    """Filled later, except by Python 2, which lists the pairs."""
    found = {}
    fill(found, pairs)
    return found


def _rebuild_tensor_v2(
    part, offset, shape, strides, requires_grad, hooks, metadata=None
) -> Tensor:
    if type(part) is not Part or metadata:  # conjugated or negated numbers
        raise TypeError("no plain tensor")
    shape, strides = _counts(shape), _counts(strides)
    if len(shape) != len(strides):
        raise ValueError("no strides of this shape")
    tensor = Tensor(part.storage, part.start + _count(offset), shape, strides)
    if offset + tensor.span > part.numel:
        raise pickle.UnpicklingError(
            f"a tensor of shape {shape} and strides {strides}, which exceeds its "
            f"storage of {part.numel} numbers"
        )
    if math.prod(shape) > max(part.numel, MAX_REPEATED):
        raise pickle.UnpicklingError(
            f"a tensor of shape {shape} that repeats {part.numel} numbers"
        )
    return tensor


def _rebuild_parameter(tensor, requires_grad, hooks) -> Tensor:
    if type(tensor) is not Tensor:
        raise TypeError("no tensor")
    return tensor


CONSTRUCTORS: dict[str, Callable] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    # The options of a training run, which timm saves beside the state.
    "argparse.Namespace": _ordered_dict,
}


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("no count")
    return value


def _counts(values: object) -> tuple[int, ...]:
    if type(values) is not tuple or len(values) > MAX_AXES:
        raise ValueError("no shape")
    return tuple(_count(value) for value in values)
