"""`LazyTensor`: a tensor of an open file that is read when it is needed."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)  # the import also teaches NumPy the name


class WeightsError(ValueError):
    """A weight file cannot be used; the message names the file and the reason."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor of an open file.

    Attributes:
        shape: Its shape.
        dtype: Its dtype in the file.
        path: The file, for errors.
        read: Reads the data, in that shape and dtype.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    path: Path
    read: Callable[[], np.ndarray]

    @property
    def is_float(self) -> bool:
        """Whether the numbers are floating-point, bfloat16 included."""
        return self.dtype == BFLOAT16 or np.issubdtype(self.dtype, np.floating)


LazyTensors = Mapping[str, LazyTensor]


def lazy_block(
    file: BinaryIO, path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...]
) -> LazyTensor:
    """A tensor that is one block of a file, in C order, from the byte `offset` on.

    Only this block is ever in memory. The pages of a memory-mapped file would stay as
    long as the mapping.
    """

    def read() -> np.ndarray:
        file.seek(offset)
        data = np.fromfile(file, dtype, math.prod(shape))
        if data.size < math.prod(shape):
            raise WeightsError(
                f"Expected {math.prod(shape)} numbers at byte {offset} of {path}, "
                f"found {data.size}: the file is truncated."
            )
        return data.reshape(shape)

    return LazyTensor(shape, dtype, path, read)


def finite_array(name: str, tensor: LazyTensor, dtype) -> np.ndarray:
    """Reads a tensor in a floating-point dtype.

    Raises:
        WeightsError: A number is not finite, or too large for `dtype`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        array = tensor.read().astype(dtype, copy=False)
    if not np.isfinite(array).all():
        raise WeightsError(
            f"Expected finite numbers within the range of {dtype} in {name}, found "
            f"others in {tensor.path}; nothing was loaded."
        )
    return array
