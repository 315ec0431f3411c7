"""What every reader gives: tensors whose shapes are known before their data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)  # the import also teaches NumPy the name


class WeightsError(ValueError):
    """A weight file cannot be used; the message names the file and the reason."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of an open file, in Keras' layout.

    Attributes:
        shape: Its shape.
        path: The file, for errors.
        read: Reads the data, of that shape and a floating dtype.
    """

    shape: tuple[int, ...]
    path: Path
    read: Callable[[], np.ndarray]


StoredTensors = Mapping[str, StoredTensor]
