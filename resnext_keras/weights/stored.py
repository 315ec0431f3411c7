"""What every reader gives: tensors whose shapes are known before their data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


class WeightsError(ValueError):
    """A weight file cannot be used; the message names the file and the reason."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of an open file, in Keras' layout.

    Attributes:
        shape: Its shape.
        read: Reads the data, of that shape and a floating dtype.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


StoredTensors = Mapping[str, StoredTensor]
